// Package display writes what pvdisplay, vgdisplay and lvdisplay show: a block
// of labelled lines an object, or the one-line forms for scripts. It reads the
// same data as package fields. What only a kernel knows (device numbers, the
// read-ahead in use) is left out; where cowl serves a volume, lines say so.
package display

import (
	"bufio"
	"fmt"
	"io"
	"time"

	"cowl/internal/volume"
)

// Printer writes blocks.
type Printer struct {
	Out   io.Writer
	Sizes volume.SizeFormat // Long
	Zone  *time.Location
	Maps  bool // also where the extents are
}

// block collects the lines of one object, so that it is written at once.
type block struct {
	w     *bufio.Writer
	width int // of the labels
}

func (p *Printer) block(labelWidth int) *block {
	return &block{w: bufio.NewWriter(p.Out), width: labelWidth}
}

// end writes the empty line behind a block, and all of it.
func (b *block) end() error {
	b.text("   ")
	return b.w.Flush()
}

// text writes one line as it is.
func (b *block) text(format string, args ...any) {
	fmt.Fprintf(b.w, format+"\n", args...)
}

// field writes a label and its value.
func (b *block) field(label, format string, args ...any) {
	fmt.Fprintf(b.w, "  %-*s%s\n", b.width, label, fmt.Sprintf(format, args...))
}

func (p *Printer) size(bytes int64) string { return p.Sizes.Format(bytes) }
