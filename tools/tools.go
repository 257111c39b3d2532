//go:build tools

// Package tools pins programs that are not part of cowl in a module of their
// own, so that cowl's go.mod lists only what cowl is made of: what `make lint`
// runs, and the stock kopia, which judges our repositories in tests.
package tools

import (
	_ "github.com/kopia/kopia"
	_ "honnef.co/go/tools/cmd/staticcheck"
)
