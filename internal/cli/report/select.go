package report

import (
	"strings"
	"time"

	"cowl/internal/errs"
)

// The selection language, as LVM documents it:
//
//	statement = field operator value
//	          | statement && statement    also written with a comma
//	          | statement || statement    also written with a #
//	          | (statement) | !(statement)
//
// && binds tighter than ||. Values are described in value.go.

// predicate says whether a row is selected.
type predicate[R any] func(R) bool

// selectionParser is a recursive descent over the text of one --select.
type selectionParser[R any] struct {
	catalog *Catalog[R]
	prefix  string
	text    string
	pos     int
	now     time.Time   // what "2 days ago" counts from, and whose zone times are in
	fields  []*Field[R] // that the selection mentions
}

// maxDepth bounds nested parentheses, and with them the stack.
const maxDepth = 100

// parseSelection returns the predicate and the fields it looks at. An empty
// text, or "all", selects everything.
func (c *Catalog[R]) parseSelection(text, prefix string, now time.Time) (predicate[R], []*Field[R], error) {
	if s := strings.TrimSpace(text); s == "" || s == "all" {
		return func(R) bool { return true }, nil, nil
	}
	p := &selectionParser[R]{catalog: c, prefix: prefix, text: text, now: now}
	match, err := p.or(0)
	if err != nil {
		return nil, nil, err
	}
	if p.skipSpace(); p.pos < len(p.text) {
		return nil, nil, p.fail("Expecting logical operator", p.pos)
	}
	return match, p.fields, nil
}

// fail is a syntax error whose place in the text is shown.
func (p *selectionParser[R]) fail(what string, at int) error {
	return errs.WithHint(errs.E(errs.Other, "%s\nSelection syntax error at '%s'.", what, p.text[at:]),
		"Use -S help to get more help.")
}

func (p *selectionParser[R]) skipSpace() {
	for p.pos < len(p.text) && isSpace(p.text[p.pos]) {
		p.pos++
	}
}

func isSpace(c byte) bool { return c == ' ' || c == '\t' || c == '\n' }

// accept takes one of the words if it comes next.
func (p *selectionParser[R]) accept(words ...string) bool {
	p.skipSpace()
	for _, w := range words {
		if strings.HasPrefix(p.text[p.pos:], w) {
			p.pos += len(w)
			return true
		}
	}
	return false
}

func (p *selectionParser[R]) or(depth int) (predicate[R], error) {
	left, err := p.and(depth)
	for err == nil && p.accept("||", "#") {
		var right predicate[R]
		a := left
		right, err = p.and(depth)
		left = func(r R) bool { return a(r) || right(r) }
	}
	return left, err
}

func (p *selectionParser[R]) and(depth int) (predicate[R], error) {
	left, err := p.unary(depth)
	for err == nil && p.accept("&&", ",") {
		var right predicate[R]
		a := left
		right, err = p.unary(depth)
		left = func(r R) bool { return a(r) && right(r) }
	}
	return left, err
}

func (p *selectionParser[R]) unary(depth int) (predicate[R], error) {
	if depth > maxDepth {
		return nil, p.fail("Selection is nested too deeply", p.pos)
	}
	negate := p.accept("!")
	if !p.accept("(") {
		if negate {
			return nil, errs.E(errs.Other, "Syntax error: left parenthesis expected at '%s'", p.text[p.pos:])
		}
		return p.comparison()
	}
	inner, err := p.or(depth + 1)
	if err != nil {
		return nil, err
	}
	if !p.accept(")") {
		return nil, errs.E(errs.Other, "Syntax error: right parenthesis expected at '%s'", p.text[p.pos:])
	}
	if negate {
		return func(r R) bool { return !inner(r) }, nil
	}
	return inner, nil
}

// operator is a comparison. The words of time are other spellings.
type operator uint8

const (
	equal operator = iota
	notEqual
	matches
	notMatches
	greater
	greaterEqual
	less
	lessEqual
)

// operators are tried in order: longer ones stand before their prefixes.
var operators = []struct {
	text string
	op   operator
	time bool
}{
	{"=~", matches, false}, {"!~", notMatches, false}, {"!=", notEqual, false},
	{">=", greaterEqual, false}, {"<=", lessEqual, false},
	{"=", equal, false}, {">", greater, false}, {"<", less, false},
	{"since", greaterEqual, true}, {"after", greater, true},
	{"until", lessEqual, true}, {"before", less, true},
}

// comparison parses "field operator value".
func (p *selectionParser[R]) comparison() (predicate[R], error) {
	p.skipSpace()
	start := p.pos
	for p.pos < len(p.text) && isNameChar(p.text[p.pos]) {
		p.pos++
	}
	name := p.text[start:p.pos]
	if name == "" {
		return nil, p.fail("Expecting field name", start)
	}
	f := p.catalog.find(name, p.prefix)
	if f == nil {
		err := p.catalog.unknown("Unrecognised selection field: %s", name, p.prefix)
		return nil, errs.WithHint(errs.E(errs.Other, "%w\nSelection syntax error at '%s'.", err, p.text[start:]), "%s", errs.HintOf(err))
	}
	op, err := p.operator(f, start)
	if err != nil {
		return nil, err
	}
	p.skipSpace()
	p.fields = append(p.fields, f)
	return p.operand(f, op, start)
}

func isNameChar(c byte) bool {
	return c == '_' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

func (p *selectionParser[R]) operator(f *Field[R], start int) (operator, error) {
	p.skipSpace()
	rest := p.text[p.pos:]
	for _, o := range operators {
		if !strings.HasPrefix(rest, o.text) {
			continue
		}
		p.pos += len(o.text)
		switch {
		case o.time && f.Kind != Time:
			return 0, p.fail("Operator can be used only with time fields: "+p.text[start:], start)
		case o.op >= greater && !f.Kind.isNumeric():
			return 0, p.fail("Operator can be used only with number, size, time or percent fields: "+p.text[start:], start)
		case (o.op == matches || o.op == notMatches) && f.Kind != String:
			return 0, errs.E(errs.Other, "dm_report: incompatible comparison type for selection field %s", f.Name)
		}
		return o.op, nil
	}
	return 0, p.fail("Unrecognised comparison operator: "+rest, start)
}
