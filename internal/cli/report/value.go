package report

import (
	"regexp"
	"slices"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// operand parses the value of a comparison, by the field's kind.
func (p *selectionParser[R]) operand(f *Field[R], op operator, start int) (predicate[R], error) {
	switch f.Kind {
	case String:
		return p.stringOperand(f, op, start)
	case List:
		return p.listOperand(f, op, start)
	case Time:
		return p.timeOperand(f, op, start)
	}
	return p.numberOperand(f, op, start)
}

// bad says that a value cannot be read.
func (p *selectionParser[R]) bad(f *Field[R], kind string, cause string, start int) error {
	if cause != "" {
		cause += "\n"
	}
	return p.fail(cause+"Failed to parse "+kind+" value for selection field "+f.Name+".", start)
}

// word reads a quoted string, or what stands before the next space, operator
// or closing bracket. ok is false if a quote is not closed.
func (p *selectionParser[R]) word() (text string, ok bool) {
	p.skipSpace()
	if p.pos < len(p.text) && (p.text[p.pos] == '"' || p.text[p.pos] == '\'') {
		quote := p.text[p.pos]
		end := strings.IndexByte(p.text[p.pos+1:], quote)
		if end < 0 {
			return "", false
		}
		text = p.text[p.pos+1 : p.pos+1+end]
		p.pos += end + 2
		return text, true
	}
	start := p.pos
	for p.pos < len(p.text) && !isSpace(p.text[p.pos]) && !p.atWordEnd() {
		p.pos++
	}
	return p.text[start:p.pos], true
}

func (p *selectionParser[R]) atWordEnd() bool {
	rest := p.text[p.pos:]
	return strings.IndexByte(",#()]}", rest[0]) >= 0 || strings.HasPrefix(rest, "&&") || strings.HasPrefix(rest, "||")
}

func (p *selectionParser[R]) stringOperand(f *Field[R], op operator, start int) (predicate[R], error) {
	text, ok := p.word()
	if !ok {
		return nil, p.bad(f, "string", "Missing end quote.", start)
	}
	if op == matches || op == notMatches {
		re, err := regexp.Compile(text)
		if err != nil {
			return nil, errs.E(errs.Other, "dm_report: failed to create regex matcher for selection field %s: %w", f.Name, err)
		}
		return func(r R) bool { return re.MatchString(f.Get(r).key()) == (op == matches) }, nil
	}
	if alias, ok := f.Aliases[text]; ok {
		text = alias
	}
	return func(r R) bool { return (f.Get(r).key() == text) == (op == equal) }, nil
}

// listOperand parses a list of strings:
//
//	[a,b] [a||b]   all items, or any, and no others
//	{a,b} {a||b}   all items, or any, others allowed
//	a              the item, others allowed
//	""             no items at all
func (p *selectionParser[R]) listOperand(f *Field[R], op operator, start int) (predicate[R], error) {
	open := byte(0)
	if p.pos < len(p.text) && (p.text[p.pos] == '[' || p.text[p.pos] == '{') {
		open = p.text[p.pos]
		p.pos++
	}
	items, any, cause := p.listItems(open)
	if cause != "" {
		return nil, p.bad(f, "string list", cause, start)
	}
	test := func(have []string) bool {
		in := func(item string) bool { return slices.Contains(have, item) }
		switch {
		case len(items) == 0:
			return len(have) == 0
		case open == '[' && slices.ContainsFunc(have, func(h string) bool { return !slices.Contains(items, h) }):
			return false
		case any:
			return slices.ContainsFunc(items, in)
		}
		return !slices.ContainsFunc(items, func(item string) bool { return !in(item) })
	}
	return func(r R) bool { return test(f.Get(r).Items) == (op == equal) }, nil
}

// listItems reads the items behind an opening bracket, and the closing one; a
// single item without brackets if open is 0.
func (p *selectionParser[R]) listItems(open byte) (items []string, any bool, cause string) {
	closing := map[byte]string{'[': "]", '{': "}"}[open]
	separated := byte(0) // 'a' for and, 'o' for or
	for {
		if closing != "" && p.accept(closing) {
			return items, separated == 'o', ""
		}
		item, ok := p.word()
		if !ok {
			return nil, false, "Missing end quote."
		}
		if item != "" {
			items = append(items, item)
		}
		kind := byte(0)
		switch {
		case closing == "":
			return items, false, ""
		case p.accept("&&", ","):
			kind = 'a'
		case p.accept("||", "#"):
			kind = 'o'
		case p.accept(closing):
			return items, separated == 'o', ""
		default:
			return nil, false, "Invalid operator in selection list."
		}
		if separated != 0 && kind != separated {
			return nil, false, "Only one type of logical operator allowed in selection list at a time."
		}
		separated = kind
	}
}

// numberOperand parses a number, a size, a percentage, or one of the words
// that stand for a number.
func (p *selectionParser[R]) numberOperand(f *Field[R], op operator, start int) (predicate[R], error) {
	text, ok := p.word()
	if !ok {
		return nil, p.bad(f, "numeric", "Missing end quote.", start)
	}
	if f.isUndefinedWord(text) {
		return func(r R) bool { return isUndefined(op, f.Get(r).Known) }, nil
	}
	want, rest, ok := f.number(text)
	if !ok {
		return nil, p.bad(f, "numeric", "", start)
	}
	if rest != "" {
		return nil, p.fail("Expecting logical operator", p.pos-len(rest))
	}
	return func(r R) bool {
		v := f.Get(r)
		return v.Known && compares(op, v.Num, want, f.Kind)
	}, nil
}

// isUndefinedWord tells the words for "has no such number". They are numbers
// of their own where the field is a flag: 0 is no, and unknown is unknown.
func (f *Field[R]) isUndefinedWord(text string) bool {
	return slices.Contains([]string{"-1", "unknown", "undefined", "undef"}, text) || slices.Contains(f.Undefined, text)
}

// isUndefined compares a value with "undefined", which nothing is above or below.
func isUndefined(op operator, known bool) bool {
	switch op {
	case equal, greaterEqual, lessEqual:
		return !known
	case notEqual:
		return known
	}
	return false
}

// unitBytes returns what one of a unit of size is in bytes, in powers of 1024
// whatever the letter's case.
func unitBytes(letter byte) (float64, bool) {
	switch letter | 0x20 {
	case 'b':
		return 1, true
	case 's':
		return 512, true
	}
	i := strings.IndexByte("kmgtpe", letter|0x20)
	return float64(int64(1) << (10 * (i + 1))), i >= 0
}

// number reads a number of the field's kind; rest is what could not be read.
func (f *Field[R]) number(text string) (n float64, rest string, ok bool) {
	if f.Flag != "" {
		switch text {
		case f.Flag, "yes":
			return 1, "", true
		case "no", "not " + f.Flag:
			return 0, "", true
		}
	}
	digits := len(text) - len(strings.TrimLeft(text, "0123456789."))
	n, err := strconv.ParseFloat(text[:digits], 64)
	if err != nil {
		return 0, "", false
	}
	rest = text[digits:]
	switch f.Kind {
	case Percent:
		rest = strings.TrimPrefix(rest, "%")
	case Size:
		unit := byte('m')
		if rest != "" {
			unit, rest = rest[0], rest[1:]
		}
		factor, known := unitBytes(unit)
		if !known {
			return 0, text[digits:], true
		}
		n *= factor
	}
	return n, rest, true
}

// compares compares numbers. Sizes and percentages are typed with two
// decimals at most, so equal means equal as far as they go.
func compares(op operator, have, want float64, kind Kind) bool {
	same := have == want
	if kind == Percent {
		same = have-want < 0.005 && want-have <= 0.005
	}
	switch op {
	case equal:
		return same
	case notEqual:
		return !same
	case greater:
		return have > want && !same
	case greaterEqual:
		return have > want || same
	case less:
		return have < want && !same
	}
	return have < want || same
}
