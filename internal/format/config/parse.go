package config

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// Parse reads a text. Errors are of kind errs.Corrupt and name the line.
func Parse(text []byte) ([]Node, error) { return parse(text, MaxEntries) }

// parse is Parse with the limit on entries as an argument.
func parse(text []byte, entries int) ([]Node, error) {
	p := &parser{what: "parse metadata", line: 1, left: entries}
	return p.parse(text)
}

// parse reads a text from its beginning to its end.
func (p *parser) parse(text []byte) ([]Node, error) {
	if len(text) > MaxSize {
		return nil, errs.E(errs.Corrupt, "%s: %d bytes of text (want at most %d)", p.what, len(text), MaxSize)
	}
	if i := bytes.IndexByte(text, 0); i >= 0 {
		return nil, errs.E(errs.Corrupt, "%s: a NUL at byte %d of the text", p.what, i)
	}
	p.text = string(text)
	nodes := p.section(0)
	if p.err != nil {
		return nil, p.err
	}
	return nodes, nil
}

// parser walks the text once. After the first error it only returns.
type parser struct {
	what string // is read, for errors
	text string
	pos  int
	line int
	left int // entries and elements that may still come
	err  error

	lines []int // where the entries begin, in their order

	blank   bool   // skip passed an empty line
	comment string // the last comment that skip passed
}

func (p *parser) fail(format string, args ...any) {
	if p.err == nil {
		p.err = errs.E(errs.Corrupt, "%s line %d: %s", p.what, p.line, fmt.Sprintf(format, args...))
	}
}

// peek returns the next byte, 0 at the end.
func (p *parser) peek() byte {
	if p.pos < len(p.text) {
		return p.text[p.pos]
	}
	return 0
}

func (p *parser) atEnd() bool { return p.pos >= len(p.text) }

// take consumes c if it is next.
func (p *parser) take(c byte) bool {
	if p.atEnd() || p.text[p.pos] != c {
		return false
	}
	p.pos++
	return true
}

// count charges one entry or element.
func (p *parser) count() {
	if p.left--; p.left < 0 {
		p.fail("too many entries")
	}
}

// skip passes white space and comments, and notes empty lines and the last
// comment on the way.
func (p *parser) skip() {
	p.blank, p.comment = false, ""
	fresh := p.pos == 0 // the line so far has nothing but blanks
	for !p.atEnd() {
		switch c := p.text[p.pos]; {
		case c == '\n':
			p.blank = p.blank || fresh
			fresh = true
			p.line++
			p.pos++
		case isSpace(c):
			p.pos++
		case c == '#':
			p.comment = p.restOfLine()
			fresh = false
		default:
			return
		}
	}
}

// restOfLine consumes a comment up to its newline.
func (p *parser) restOfLine() string {
	end := strings.IndexByte(p.text[p.pos:], '\n')
	if end < 0 {
		end = len(p.text) - p.pos
	}
	c := p.text[p.pos : p.pos+end]
	p.pos += end
	return strings.TrimSpace(strings.TrimLeft(c, "#"))
}

// remark consumes a comment on the rest of this line, if there is one.
func (p *parser) remark() string {
	at := p.pos
	for !p.atEnd() && p.peek() != '\n' && isSpace(p.peek()) {
		p.pos++
	}
	if p.peek() == '#' {
		return p.restOfLine()
	}
	p.pos = at
	return ""
}

// section reads entries up to the closing brace, or to the text's end at depth 0.
func (p *parser) section(depth int) []Node {
	if depth > MaxDepth {
		p.fail("more than %d sections within each other", MaxDepth)
	}
	var nodes []Node
	for p.err == nil {
		p.skip()
		blank, above := p.blank, p.comment
		if depth > 0 {
			above = ""
			if p.take('}') {
				return nodes
			}
		}
		if p.atEnd() {
			if depth > 0 {
				p.fail("the text ends within a section")
			}
			return nodes
		}
		n := p.entry(depth)
		n.Blank, n.Above = blank, above
		if depth == 0 {
			n.Remark = p.remark()
		}
		nodes = append(nodes, n)
	}
	return nil
}

// entry reads "key = value" or "key { ... }".
func (p *parser) entry(depth int) Node {
	p.count()
	p.lines = append(p.lines, p.line)
	start := p.pos
	for !p.atEnd() && isKey(p.text[p.pos]) {
		p.pos++
	}
	n := Node{Key: p.text[start:p.pos]}
	if n.Key == "" {
		p.fail("want a key, found %q", p.peek())
		return n
	}
	n.Tight = p.peek() == '='
	p.skip()
	switch {
	case p.take('{'):
		n.Section = true
		n.Children = p.section(depth + 1)
	case p.take('='):
		n.Tight = n.Tight && !isSpace(p.peek())
		n.Value = p.value()
	default:
		p.fail("want = or { after %q", n.Key)
	}
	return n
}

// value reads a scalar or an array of scalars.
func (p *parser) value() Value {
	p.skip()
	if !p.take('[') {
		return p.scalar()
	}
	v := Value{Kind: Array}
	line := p.line
	p.skip()
	rows := p.line > line // the elements stand on lines of their own
	line = p.line
	for p.err == nil {
		if p.take(']') {
			return v
		}
		p.count()
		v.Array = append(v.Array, p.scalar())
		if rows && p.line == line {
			v.PerLine = len(v.Array)
		}
		p.skip()
		if !p.take(',') {
			if p.take(']') {
				return v
			}
			p.fail("want , or ] in an array")
		}
		p.skip()
	}
	return v
}

// scalar reads a number or a string.
func (p *parser) scalar() Value {
	switch c := p.peek(); {
	case c == '"':
		return StringValue(p.quoted())
	case c == '\'':
		return StringValue(p.plain())
	case c >= '0' && c <= '9', c == '+', c == '-', c == '.':
		return p.number()
	}
	if p.atEnd() {
		p.fail("want a value, found the end of the text")
	} else {
		p.fail("want a value, found %q", p.peek())
	}
	return Value{}
}

// quoted reads a "string", in which a backslash before a quote or a backslash
// takes away that character's meaning, and elsewhere stands for itself.
func (p *parser) quoted() string {
	start := p.pos + 1
	escaped := false
	for i := start; i < len(p.text); i++ {
		switch p.text[i] {
		case '\\':
			escaped = true
			i++
		case '"':
			p.pos = i + 1
			s := p.text[start:i]
			p.line += strings.Count(s, "\n")
			if escaped {
				s = unescaper.Replace(s)
			}
			return s
		}
	}
	p.fail("a string does not end")
	return ""
}

// unescaper works from left to right, so that \\" is a backslash and an end.
var unescaper = strings.NewReplacer(`\\`, `\`, `\"`, `"`)

// plain reads a 'string' without escapes.
func (p *parser) plain() string {
	start := p.pos + 1
	n := strings.IndexByte(p.text[start:], '\'')
	if n < 0 {
		p.fail("a string does not end")
		return ""
	}
	p.pos = start + n + 1
	s := p.text[start : start+n]
	p.line += strings.Count(s, "\n")
	return s
}

// number reads an integer in C's notation (a leading zero means octal), or a
// float, which is a number with a point and is kept as it is written.
func (p *parser) number() Value {
	start := p.pos
	p.pos++
	for !p.atEnd() && (isDigit(p.text[p.pos]) || p.text[p.pos] == '.') {
		p.pos++
	}
	word := p.text[start:p.pos]
	if strings.Contains(word, ".") {
		if _, err := strconv.ParseFloat(word, 64); err != nil {
			p.fail("bad number %.40q", word)
		}
		return Value{Kind: Float, Text: word}
	}
	n, err := strconv.ParseInt(word, 0, 64)
	if err != nil {
		p.fail("bad number %.40q", word)
	}
	return IntValue(n)
}

func isDigit(c byte) bool { return c >= '0' && c <= '9' }

func isSpace(c byte) bool { return c == ' ' || c >= '\t' && c <= '\r' }

// isKey reports whether c can be part of a key: any printable ASCII character
// that the grammar has no other use for.
func isKey(c byte) bool {
	return c > ' ' && c < 0x7f && !strings.ContainsRune(`"#',=[]{}`, rune(c))
}
