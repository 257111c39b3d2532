package report

import (
	"encoding/json"
	"strings"
)

// json writes the lines in LVM's layout: one row a line.
func (p *printer[R]) json(lines []line) {
	const level = "    "
	put := func(depth int, text string) { p.w.WriteString(indent + strings.Repeat(level, depth) + text + "\n") }
	put(0, "{")
	put(1, `"report": [`)
	put(2, "{")
	put(3, `"`+p.Name+`": [`)
	for i, l := range lines {
		comma := ","
		if i == len(lines)-1 {
			comma = ""
		}
		put(4, p.jsonRow(l)+comma)
	}
	put(3, "]")
	put(2, "}")
	put(1, "]")
	put(0, "}")
}

func (p *printer[R]) jsonRow(l line) string {
	pairs := make([]string, len(l))
	for i, c := range p.columns {
		pairs[i] = quote(c.Name) + ":" + p.jsonValue(c, l[i])
	}
	return "{" + strings.Join(pairs, ", ") + "}"
}

// jsonValue returns a value; in JSONStd, numbers that are printed as numbers
// are numbers, those that are not known are null, and lists are arrays.
func (p *printer[R]) jsonValue(c *Field[R], v Value) string {
	switch {
	case p.JSON != JSONStd:
		return quote(v.Text)
	case c.Kind == List:
		items := make([]string, len(v.Items))
		for i, item := range v.Items {
			items[i] = quote(item)
		}
		return "[" + strings.Join(items, ",") + "]"
	case !c.Kind.isNumeric() || c.Kind == Time:
		return quote(v.Text)
	case !v.Known && (v.Text == "" || v.Text == "-1"):
		return "null"
	case json.Valid([]byte(v.Text)):
		return v.Text
	}
	return quote(v.Text)
}

// quote is a JSON string without HTML escapes.
func quote(text string) string {
	var b strings.Builder
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(text); err != nil {
		panic(err) // a string can always be encoded
	}
	return strings.TrimSuffix(b.String(), "\n")
}
