// Package config reads and writes the grammar of LVM2's text format:
//
//	key = value        section { ... }        # comment
//
// with values that are integers, floats, "strings" and [arrays]. It knows
// nothing of what the keys mean; package vgtext does.
package config

// Node is one entry of a section: an assignment, or a section of its own.
type Node struct {
	Key      string
	Value    Value  // of an assignment
	Children []Node // of a section, in file order
	Section  bool   // tells an empty section from an assignment
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
}
