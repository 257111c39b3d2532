package config

// Setting is one assignment of a configuration file.
type Setting struct {
	Path  string // section/key, as LVM2 names its settings
	Line  int    // where it stands, from 1
	Value Value
}

// Settings reads a configuration file: assignments in sections, or with the
// sections in their keys. They come in the file's order, the last of a path
// counts. Errors name the file, which name is for, and the line.
func Settings(name string, text []byte) ([]Setting, error) {
	p := &parser{what: name, line: 1, left: MaxEntries}
	nodes, err := p.parse(text)
	if err != nil {
		return nil, err
	}
	return flatten(nil, "", nodes, p.lines), nil
}

// flatten appends the assignments of a section. lines begins with those of its
// entries and of theirs.
func flatten(out []Setting, prefix string, nodes []Node, lines []int) []Setting {
	for _, n := range nodes {
		line := lines[0]
		lines = lines[1:]
		if !n.Section {
			out = append(out, Setting{Path: prefix + n.Key, Line: line, Value: n.Value})
			continue
		}
		out = flatten(out, prefix+n.Key+"/", n.Children, lines)
		lines = lines[entries(n.Children):]
	}
	return out
}

// entries counts entries, with those in sections.
func entries(nodes []Node) int {
	n := len(nodes)
	for _, c := range nodes {
		n += entries(c.Children)
	}
	return n
}
