// Package config reads and writes the grammar of LVM2's text format:
//
//	key = value        section { ... }        # comment
//
// with values that are integers, floats, "strings" and [arrays]. It knows
// nothing of what the keys mean; package vgtext does for metadata, and package
// manager for cowl's configuration file.
//
// What is read and written again keeps its order, values and layout as far as
// LVM2 itself varies it (empty lines, rows of arrays), so that what cowl does
// not understand goes back to the disk as lvm2 wrote it.
package config

// Limits on what Parse accepts. A metadata text has five levels, and LVM2's
// default metadata area holds half a megabyte.
const (
	MaxSize    = 16 << 20 // bytes of text
	MaxDepth   = 32       // sections within sections
	MaxEntries = 1 << 19  // entries and array elements together, which bounds memory
)

// Node is one entry of a section: an assignment, or a section of its own.
type Node struct {
	Key      string
	Value    Value  // of an assignment
	Children []Node // of a section, in file order
	Section  bool   // tells an empty section from an assignment

	// Blank: an empty line stands before the entry.
	Blank bool
	// Tight: written "key=value" and indented by a tab, as LVM2 writes the
	// settings of cache policies.
	Tight bool
	// After is for users of this package that keep some entries of a section
	// and interpret the others: the key of the entry that stood before. Parse
	// leaves it empty and Format ignores it.
	After string
	// Above and Remark are the comment line right above the entry and the
	// comment that follows it on its line, without "#" and blanks. They are
	// kept for entries that are in no section; other comments are dropped.
	Above, Remark string
}

// Kind is a value's type as it is written.
type Kind uint8

// The kinds of values.
const (
	Int Kind = iota
	Float
	String
	Array
)

// Value is what stands after "key =".
type Value struct {
	Kind  Kind
	Int   int64
	Text  string // String: unescaped; Float: as written
	Array []Value
	// PerLine is how an Array is laid out: 0 for one line, else the number of
	// elements on each line between the brackets' own lines.
	PerLine int
}

// IntValue returns an integer.
func IntValue(n int64) Value { return Value{Kind: Int, Int: n} }

// StringValue returns a string.
func StringValue(s string) Value { return Value{Kind: String, Text: s} }

// StringsValue returns an array of strings on one line.
func StringsValue(list []string) Value {
	v := Value{Kind: Array}
	for _, s := range list {
		v.Array = append(v.Array, StringValue(s))
	}
	return v
}
