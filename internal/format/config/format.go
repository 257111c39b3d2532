package config

import (
	"strconv"
	"strings"
)

// Format writes entries without indentation, as LVM2 does on disk. What Parse
// returned is written so that parsing it again gives the same.
func Format(nodes []Node) []byte {
	var w Writer
	w.Nodes(nodes)
	return w.Bytes()
}

// Writer writes a text entry by entry. The zero Writer writes as on disk;
// with Indent it writes the style of LVM2's backup files: sections are
// indented by tabs, and remarks stand behind the entries.
type Writer struct {
	Indent bool
	// Note, if set, gives the remark for an entry of Nodes ("" for none).
	Note func(n Node) string

	buf   []byte
	depth int
}

// remarkTab is the tab stop, of eight columns each, up to which remarks are
// moved when there is room.
const remarkTab = 5

// Bytes returns what was written.
func (w *Writer) Bytes() []byte { return w.buf }

// Blank writes an empty line.
func (w *Writer) Blank() { w.buf = append(w.buf, '\n') }

// Comment writes a comment line.
func (w *Writer) Comment(text string) {
	w.tabs()
	w.buf = append(append(w.buf, "# "...), text...)
	w.Blank()
}

// Open begins a section.
func (w *Writer) Open(key string) {
	w.tabs()
	w.buf = append(append(w.buf, key...), " {\n"...)
	w.depth++
}

// Close ends the section.
func (w *Writer) Close() {
	w.depth--
	w.tabs()
	w.buf = append(w.buf, "}\n"...)
}

// Assign writes "key = value".
func (w *Writer) Assign(key string, v Value) {
	w.tabs()
	w.buf = append(append(w.buf, key...), " = "...)
	w.value(v)
	w.Blank()
}

// AssignNoted writes "key = value" with a remark behind it, which is left out
// on disk.
func (w *Writer) AssignNoted(key string, v Value, remark string) {
	start := len(w.buf)
	w.Assign(key, v)
	if !w.Indent || remark == "" {
		return
	}
	w.buf = w.buf[:len(w.buf)-1]
	column := (len(w.buf)-start-w.depth)/8 + w.depth
	for range max(1, remarkTab-column) {
		w.buf = append(w.buf, '\t')
	}
	w.buf = append(append(w.buf, "# "...), remark...)
	w.Blank()
}

// AssignRemarked writes "key = value", a tab and the remark, on disk too, as
// LVM2 does in the lines about the text itself.
func (w *Writer) AssignRemarked(key string, v Value, remark string) {
	w.Assign(key, v)
	if remark != "" {
		w.buf = append(w.buf[:len(w.buf)-1], "\t# "...)
		w.buf = append(w.buf, remark...)
		w.Blank()
	}
}

// Nodes writes entries, each with its empty line, comment and remark.
func (w *Writer) Nodes(nodes []Node) {
	for _, n := range nodes {
		w.Node(n)
	}
}

// Node writes one entry.
func (w *Writer) Node(n Node) {
	if n.Blank {
		w.Blank()
	}
	if n.Above != "" {
		w.Comment(n.Above)
	}
	switch {
	case n.Section:
		w.Open(n.Key)
		w.Nodes(n.Children)
		w.Close()
		return
	case n.Tight:
		if w.tabs(); !w.Indent {
			w.buf = append(w.buf, '\t')
		}
		w.buf = append(append(w.buf, n.Key...), '=')
		w.value(n.Value)
		w.Blank()
		return
	case n.Remark != "":
		w.AssignRemarked(n.Key, n.Value, n.Remark)
		return
	}
	note := ""
	if w.Note != nil {
		note = w.Note(n)
	}
	w.AssignNoted(n.Key, n.Value, note)
}

func (w *Writer) tabs() {
	if w.Indent {
		for range w.depth {
			w.buf = append(w.buf, '\t')
		}
	}
}

func (w *Writer) value(v Value) {
	switch v.Kind {
	case Int:
		w.buf = strconv.AppendInt(w.buf, v.Int, 10)
	case Float:
		w.buf = append(w.buf, v.Text...)
	case String:
		w.buf = append(w.buf, '"')
		w.buf = append(w.buf, escaper.Replace(v.Text)...)
		w.buf = append(w.buf, '"')
	case Array:
		w.array(v)
	}
}

var escaper = strings.NewReplacer(`\`, `\\`, `"`, `\"`)

// array writes "[a, b]", or rows on lines of their own.
func (w *Writer) array(v Value) {
	rows := v.PerLine > 0 && len(v.Array) > 0
	w.buf = append(w.buf, '[')
	w.depth++
	for i, e := range v.Array {
		switch {
		case rows && i%v.PerLine == 0:
			w.separator(i, ",")
			w.Blank()
			w.tabs()
		default:
			w.separator(i, ", ")
		}
		w.value(e)
	}
	w.depth--
	if rows {
		w.Blank()
		w.tabs()
	}
	w.buf = append(w.buf, ']')
}

func (w *Writer) separator(i int, text string) {
	if i > 0 {
		w.buf = append(w.buf, text...)
	}
}
