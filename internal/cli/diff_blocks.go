package cli

import (
	"context"
	"fmt"
	"iter"

	"cowl/internal/block"
	"cowl/internal/fsread"
)

// blocksOf compares devices.
func (d *comparing) blocksOf(ctx context.Context, x, y *source) error {
	ranges, err := d.mayDiffer(ctx, x, y)
	if err != nil {
		return err
	}
	size, longest := min(x.dev.Size(), y.dev.Size()), max(x.dev.Size(), y.dev.Size())
	if ranges == nil {
		ranges = fsread.Ranges{{Off: 0, Len: size}}
	}
	if d.json {
		fmt.Fprintf(d.out, "{\n  \"a\": %s,\n  \"b\": %s,", jsonText(x.name), jsonText(y.name))
		if !d.stat {
			d.out.WriteString("\n  \"ranges\": [")
		}
	}
	var total int64
	for e, err := range block.Coalesce(differing(ctx, x.dev, y.dev, ranges, size)) {
		if err != nil {
			return fmt.Errorf("compare %s with %s: %w", x.name, y.name, err)
		}
		total += e.Len
		d.showRange(e)
	}
	if size < longest { // only one has it
		total += longest - size
		d.showRange(block.Extent{Off: size, Len: longest - size})
	}
	d.endBlocks(total)
	return nil
}

// differing compares what of some ranges lies within size bytes.
func differing(ctx context.Context, x, y block.Device, ranges fsread.Ranges, size int64) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for _, r := range ranges {
			if r.Len = min(r.Len, size-r.Off); r.Len <= 0 {
				return
			}
			for e, err := range block.Differing(ctx, x, y, r.Off, r.Len) {
				if !yield(e, err) {
					return
				}
			}
		}
	}
}

// showRange prints a range that differs.
func (d *comparing) showRange(e block.Extent) {
	d.total.ranges++
	switch {
	case d.stat:
	case d.json:
		sep := ","
		if d.total.ranges == 1 {
			sep = ""
		}
		fmt.Fprintf(d.out, "%s\n    {\"start\": %d, \"length\": %d}", sep, e.Off, e.Len)
	default:
		fmt.Fprintf(d.out, "%d %d\n", e.Off, e.Len)
	}
}

// endBlocks prints how much differs.
func (d *comparing) endBlocks(total int64) {
	switch {
	case d.json:
		if !d.stat {
			d.out.WriteString("\n  ],")
		}
		fmt.Fprintf(d.out, "\n  \"differing_ranges\": %d,\n  \"differing_bytes\": %d\n}\n", d.total.ranges, total)
	case d.stat && total == 0:
		fmt.Fprintln(d.out, indent+"No differences.")
	case d.stat:
		fmt.Fprintf(d.out, "%s%s differ, in %d ranges.\n", indent, sizeText(total), d.total.ranges)
	}
}
