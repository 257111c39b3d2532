package report

import (
	"bufio"
	"cmp"
	"io"
	"slices"
	"strings"
)

// Format says how a report is printed.
type Format struct {
	Name string // of the report, its key in JSON: "lv"
	JSON JSON

	NoHeadings bool
	// Separator stands between columns. Columns are aligned if it is "" (then
	// one space is used) or Aligned is set.
	Separator *string
	Aligned   bool
	// Unbuffered prints rows in the order in which they were found, each
	// aligned for itself.
	Unbuffered bool
	// NamePrefixes prints NAME='value' pairs whose names begin with Prefix.
	NamePrefixes bool
	Unquoted     bool
	Prefix       string
	Rows         bool // print columns as rows
	Binary       bool // print flags as 0, 1 and -1
}

// JSON chooses one of LVM's two JSON formats.
type JSON uint8

// The formats. In JSON every value is a string; JSONStd has numbers, null and
// arrays.
const (
	NoJSON JSON = iota
	JSONBasic
	JSONStd
)

// indent stands before every line of LVM's output.
const indent = "  "

// line is one row, with its value in every column.
type line []Value

// Print selects, sorts and prints the rows.
func (r *Report[R]) Print(w io.Writer, rows []R, f Format) error {
	columns, lines := r.evaluate(rows, f)
	out := bufio.NewWriter(w)
	p := printer[R]{Format: f, w: out, columns: columns}
	switch {
	case f.JSON != NoJSON:
		p.json(lines)
	case len(lines) == 0:
	case f.Unbuffered && !f.Rows:
		p.unbuffered(lines)
	case f.Rows:
		p.asRows(lines)
	default:
		p.table(lines)
	}
	return out.Flush()
}

// evaluate returns the columns that are left after compaction and the lines
// to print, in order.
func (r *Report[R]) evaluate(rows []R, f Format) ([]*Field[R], []line) {
	showsAll := slices.ContainsFunc(r.Columns, func(c *Field[R]) bool { return c.Name == Selected })
	chosen := make([]R, 0, len(rows))
	for _, row := range rows {
		if showsAll || r.selection(row) {
			chosen = append(chosen, row)
		}
	}
	if !f.Unbuffered {
		r.sort(chosen)
	}
	lines := make([]line, len(chosen))
	for i, row := range chosen {
		for _, c := range r.Columns {
			v := c.value(row, f.Binary)
			if c.Name == Selected && !r.selection(row) {
				v = Int(0)
			}
			lines[i] = append(lines[i], v)
		}
	}
	return r.compactColumns(lines)
}

// sort orders rows by the keys. Rows that are equal in all of them stay in
// the order in which they were found.
func (r *Report[R]) sort(rows []R) {
	if len(r.keys) == 0 {
		return
	}
	slices.SortStableFunc(rows, func(a, b R) int {
		for _, k := range r.keys {
			c := compareValues(k.field.Kind, k.field.Get(a), k.field.Get(b))
			if k.descending {
				c = -c
			}
			if c != 0 {
				return c
			}
		}
		return 0
	})
}

// compareValues orders two values of a field. Unknown numbers come last.
func compareValues(kind Kind, a, b Value) int {
	if !kind.isNumeric() {
		return cmp.Compare(a.key(), b.key())
	}
	if a.Known != b.Known {
		if a.Known {
			return -1
		}
		return 1
	}
	return cmp.Compare(a.Num, b.Num)
}

// compactColumns drops the columns that may be dropped and are empty.
func (r *Report[R]) compactColumns(lines []line) ([]*Field[R], []line) {
	keep := make([]bool, len(r.Columns))
	var columns []*Field[R]
	for i, c := range r.Columns {
		keep[i] = !slices.Contains(r.compact, c) || len(lines) == 0 ||
			slices.ContainsFunc(lines, func(l line) bool { return l[i].Text != "" })
		if keep[i] {
			columns = append(columns, c)
		}
	}
	if len(columns) == len(r.Columns) {
		return columns, lines
	}
	for n, l := range lines {
		var kept line
		for i, v := range l {
			if keep[i] {
				kept = append(kept, v)
			}
		}
		lines[n] = kept
	}
	return columns, lines
}

// printer writes lines. Errors stay in the bufio.Writer until it is flushed.
type printer[R any] struct {
	Format
	w       *bufio.Writer
	columns []*Field[R]
}

func (p *printer[R]) separator() string {
	if p.Separator != nil {
		return *p.Separator
	}
	return " "
}

func (p *printer[R]) aligned() bool {
	return !p.NamePrefixes && !p.Rows && (p.Separator == nil || p.Aligned)
}

// widths returns the width of each column for the lines.
func (p *printer[R]) widths(lines []line) []int {
	widths := make([]int, len(p.columns))
	for i, c := range p.columns {
		widths[i] = c.width()
		for _, l := range lines {
			widths[i] = max(widths[i], len(l[i].Text))
		}
	}
	return widths
}

func (p *printer[R]) table(lines []line) {
	widths := p.widths(lines)
	p.headings(widths)
	for _, l := range lines {
		p.line(l, widths)
	}
}

func (p *printer[R]) unbuffered(lines []line) {
	p.headings(p.widths(lines[:1]))
	for _, l := range lines {
		p.line(l, p.widths([]line{l}))
	}
}

func (p *printer[R]) headings(widths []int) {
	if p.NoHeadings {
		return
	}
	cells := make([]string, len(p.columns))
	for i, c := range p.columns {
		cells[i] = c.Heading
		if p.aligned() {
			cells[i] = pad(cells[i], widths[i], false)
		}
	}
	p.write(cells)
}

func (p *printer[R]) line(l line, widths []int) {
	cells := make([]string, len(l))
	for i, c := range p.columns {
		cells[i] = p.cell(c, l[i])
		if p.aligned() {
			cells[i] = pad(cells[i], widths[i], c.Kind.rightAligned())
		}
	}
	p.write(cells)
}

// cell returns a value as text, with its name before it if that is asked for.
func (p *printer[R]) cell(c *Field[R], v Value) string {
	switch {
	case !p.NamePrefixes:
		return v.Text
	case p.Unquoted:
		return p.Prefix + strings.ToUpper(c.Name) + "=" + v.Text
	}
	return p.Prefix + strings.ToUpper(c.Name) + "='" + v.Text + "'"
}

func (p *printer[R]) asRows(lines []line) {
	for i, c := range p.columns {
		var cells []string
		if !p.NoHeadings {
			cells = append(cells, c.Heading)
		}
		for _, l := range lines {
			cells = append(cells, p.cell(c, l[i]))
		}
		p.write(cells)
	}
}

func (p *printer[R]) write(cells []string) {
	p.w.WriteString(indent + strings.Join(cells, p.separator()) + "\n")
}

func pad(text string, width int, right bool) string {
	fill := strings.Repeat(" ", max(0, width-len(text)))
	if right {
		return fill + text
	}
	return text + fill
}
