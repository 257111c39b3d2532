// Package report prints tables as LVM2's reporting commands do: the same
// columns, widths, alignment, order, selection language and output formats.
//
// It is generic over the row and knows nothing of volumes: package fields
// says which columns there are. It is not a general table printer; where LVM
// has a habit (headings are always left-aligned, a separator turns alignment
// off), so has this.
package report

import (
	"strconv"
	"strings"
)

// Kind is the type of a field's values. It decides the alignment, how rows
// are ordered by it, and which operators a selection may use.
type Kind uint8

// The kinds.
const (
	String  Kind = iota
	List         // of strings, printed with commas between
	Number       // a whole number, or a flag
	Size         // in bytes
	Percent      // of 100
	Time         // in seconds since the epoch
)

var kindNames = [...]string{"string", "string list", "number", "size", "percent", "time"}

// String returns the name that --select help gives the kind.
func (k Kind) String() string { return kindNames[k] }

// rightAligned tells the kinds whose values stand at the right of the column.
// Percentages do not: that is LVM's habit.
func (k Kind) rightAligned() bool { return k == Number || k == Size }

// isNumeric tells the kinds that are ordered by Value.Num.
func (k Kind) isNumeric() bool { return k >= Number }

// Value is what one row has in one column.
type Value struct {
	Text  string   // as printed
	Key   string   // of a String, what it is compared by; "" means Text
	Items []string // of a List
	Num   float64  // of the numeric kinds: bytes, percent, seconds or a count
	Known bool     // Num means something; unknown values sort behind all others
}

// Str is the value of a String field.
func Str(text string) Value { return Value{Text: text} }

// key returns what a String is compared by.
func (v Value) key() string {
	if v.Key != "" {
		return v.Key
	}
	return v.Text
}

// Strs is the value of a List field.
func Strs(items []string) Value { return Value{Text: strings.Join(items, ","), Items: items} }

// Int is the value of a Number field.
func Int[N ~int | ~int64 | ~uint64](n N) Value {
	return Value{Text: strconv.FormatInt(int64(n), 10), Num: float64(n), Known: true}
}

// Num is a numeric value that is printed as text.
func Num(n float64, text string) Value { return Value{Text: text, Num: n, Known: true} }

// Undefined is the value of a numeric field that the row has not.
func Undefined(text string) Value { return Value{Text: text} }

// Flag is the value of a field that has Field.Flag.
func Flag(set bool) Value {
	if set {
		return Value{Num: 1, Known: true}
	}
	return Value{Known: true}
}

// Field is a column that can be shown, sorted by and selected by.
type Field[R any] struct {
	Name, Heading string
	Width         int // the least, if the heading is shorter
	Kind          Kind
	Help          string
	Get           func(R) Value

	// Flag makes a Number field a yes or no: what is printed when it is set.
	// Nothing is printed when it is not, and "unknown" for Undefined values.
	Flag string
	// Aliases are further words that a selection may use for a value.
	Aliases map[string]string
	// Undefined are words for "this row has no such number", beyond -1,
	// unknown and undefined.
	Undefined []string

	section *Section[R]
}

// width returns the column's width before any row is seen.
func (f *Field[R]) width() int { return max(f.Width, len(f.Heading)) }

// value returns the row's value with the text of a flag filled in.
func (f *Field[R]) value(row R, binary bool) Value {
	v := f.Get(row)
	if f.Flag == "" {
		return v
	}
	switch {
	case binary && !v.Known:
		v.Text = "-1"
	case binary:
		v.Text = strconv.Itoa(int(v.Num))
	case !v.Known:
		v.Text = "unknown"
	case v.Num != 0:
		v.Text = f.Flag
	}
	return v
}

// Section is a group of fields of one kind of object.
type Section[R any] struct {
	Title  string // as -o help shows it: "Logical Volume Fields"
	All    string // the name that stands for all of the fields: "lv_all"
	Type   uint   // one bit: the kind of object that the fields need
	Fields []*Field[R]
}

// Catalog is all fields of a set of commands. The field named "selected" is
// filled in by the report itself.
type Catalog[R any] struct {
	sections []*Section[R]
	byName   map[string]*Field[R]
}

// Selected is the name of the field that says whether a row is selected.
const Selected = "selected"

// NewCatalog makes a catalog. Names that differ in underscores only are a bug.
func NewCatalog[R any](sections ...*Section[R]) *Catalog[R] {
	c := &Catalog[R]{byName: map[string]*Field[R]{}}
	special := &Section[R]{Title: "Special Fields", Fields: []*Field[R]{{
		Name: Selected, Heading: "Selected", Kind: Number, Help: "Set if item passes selection criteria.",
		Get: func(R) Value { return Int(1) },
	}}}
	c.sections = append(sections, special)
	for _, s := range c.sections {
		for _, f := range s.Fields {
			key := normal(f.Name)
			if c.byName[key] != nil {
				panic("report: two fields named " + f.Name)
			}
			f.section = s
			c.byName[key] = f
		}
	}
	return c
}

// normal is a name as names are compared: underscores and case do not count.
func normal(name string) string {
	return strings.ToLower(strings.ReplaceAll(name, "_", ""))
}

// find returns the field of that name, with or without the prefix, or nil.
func (c *Catalog[R]) find(name, prefix string) *Field[R] {
	if f := c.byName[normal(name)]; f != nil {
		return f
	}
	return c.byName[normal(prefix+name)]
}

// group returns the fields that a name such as lv_all stands for, with or
// without the prefix.
func (c *Catalog[R]) group(name, prefix string) []*Field[R] {
	for _, full := range []string{name, prefix + name} {
		var out []*Field[R]
		for _, s := range c.sections {
			if s.All != "" && normal(full) == normal(s.All) {
				out = append(out, s.Fields...)
			}
		}
		if out != nil {
			return out
		}
	}
	return nil
}

// Names returns the names of all fields, in order.
func (c *Catalog[R]) Names() []string {
	var names []string
	for _, s := range c.sections {
		for _, f := range s.Fields {
			names = append(names, f.Name)
		}
	}
	return names
}
