//go:build tools

// Package tools pins the programs that `make lint` runs, in a module of its
// own so that cowl's go.mod lists only what cowl is made of.
package tools

import _ "honnef.co/go/tools/cmd/staticcheck"
