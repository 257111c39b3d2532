package report

import (
	"slices"
	"strings"
	"time"

	"cowl/internal/errs"
)

// Query says what a report shows, in terms of a catalog.
type Query struct {
	// Prefix is what field names may go without: "lv_" in lvs.
	Prefix string
	// Defaults are the columns that are shown, and that a list with + or -
	// changes; comma-separated.
	Defaults string
	// Lists are the arguments of -o, in order: "a,b" replaces, "+a" adds, "-a"
	// takes away and "#a" hides columns that are empty in every row.
	Lists []string
	// All are the types of fields that the name "all" stands for.
	All uint
	// Sort is the list of sort keys, each with an optional + or -.
	Sort string
	// Select is the selection, "" for every row.
	Select string
	// Now is what a selection's relative times count from.
	Now time.Time
}

// Report is a query that was understood.
type Report[R any] struct {
	Columns   []*Field[R]
	compact   []*Field[R]
	keys      []sortKey[R]
	selection predicate[R]
	selects   []*Field[R]
	catalog   *Catalog[R]
	prefix    string
}

type sortKey[R any] struct {
	field      *Field[R]
	descending bool
}

// Parse understands a query. Errors name what was not understood.
func (c *Catalog[R]) Parse(q Query) (*Report[R], error) {
	r := &Report[R]{catalog: c, prefix: q.Prefix}
	if err := r.parseColumns(q); err != nil {
		return nil, err
	}
	if err := r.parseKeys(q.Sort); err != nil {
		return nil, err
	}
	var err error
	r.selection, r.selects, err = c.parseSelection(q.Select, q.Prefix, q.Now)
	return r, err
}

// Types returns the types of all fields that the report shows, sorts by or
// selects by.
func (r *Report[R]) Types() uint {
	var t uint
	for _, f := range r.Columns {
		t |= f.section.Type
	}
	for _, k := range r.keys {
		t |= k.field.section.Type
	}
	for _, f := range r.selects {
		t |= f.section.Type
	}
	return t
}

func (r *Report[R]) parseColumns(q Query) error {
	for _, list := range append([]string{q.Defaults}, q.Lists...) {
		op := byte('=')
		if list != "" && strings.IndexByte("+-#", list[0]) >= 0 {
			op, list = list[0], list[1:]
		}
		if list == "" {
			return errs.E(errs.Other, "Invalid options string: %s", list)
		}
		fields, err := r.resolve(list, q.All, op == '=' || op == '+')
		if err != nil {
			return err
		}
		switch op {
		case '=':
			r.Columns, r.compact = fields, nil
		case '+':
			r.Columns = append(r.Columns, fields...)
		case '-':
			r.Columns = slices.DeleteFunc(r.Columns, func(f *Field[R]) bool { return slices.Contains(fields, f) })
		case '#':
			r.compact = append(r.compact, fields...)
		}
	}
	return nil
}

// resolve turns a comma-separated list into fields. Names of groups of fields
// are allowed where columns are added; unknown names to take away do no harm.
func (r *Report[R]) resolve(list string, all uint, adding bool) ([]*Field[R], error) {
	var fields []*Field[R]
	for _, name := range strings.Split(list, ",") {
		if name == "" {
			continue
		}
		if f := r.catalog.find(name, r.prefix); f != nil {
			fields = append(fields, f)
			continue
		}
		var group []*Field[R]
		if normal(name) == "all" {
			group = r.catalog.ofTypes(all)
		} else {
			group = r.catalog.group(name, r.prefix)
		}
		if group == nil && adding {
			return nil, r.catalog.unknown("Unrecognised field: %s", name, r.prefix)
		}
		fields = append(fields, group...)
	}
	return fields, nil
}

// ofTypes returns the fields of all sections of the types.
func (c *Catalog[R]) ofTypes(types uint) []*Field[R] {
	var out []*Field[R]
	for _, s := range c.sections {
		if s.Type&types != 0 {
			out = append(out, s.Fields...)
		}
	}
	return out
}

func (r *Report[R]) parseKeys(list string) error {
	for _, name := range strings.Split(list, ",") {
		descending := strings.HasPrefix(name, "-")
		name = strings.TrimLeft(name, "+-")
		if name == "" {
			continue
		}
		f := r.catalog.find(name, r.prefix)
		if f == nil {
			return r.catalog.unknown("dm_report: Unrecognised field: %s", name, r.prefix)
		}
		r.keys = append(r.keys, sortKey[R]{field: f, descending: descending})
	}
	return nil
}

// unknown is the error for a field name that does not exist, with the nearest
// name that does.
func (c *Catalog[R]) unknown(format, name, prefix string) error {
	err := errs.E(errs.Other, format, name)
	if near := c.nearest(name, prefix); near != "" {
		return errs.WithHint(err, "Did you mean %s? Use -o help to list all fields.", near)
	}
	return errs.WithHint(err, "Use -o help to list all fields.")
}

// nearest returns the field whose name is the fewest edits away, "" if none
// is near.
func (c *Catalog[R]) nearest(name, prefix string) string {
	best, bestName := 3, ""
	for _, s := range c.sections {
		for _, f := range s.Fields {
			d := min(edits(normal(name), normal(f.Name)), edits(normal(prefix+name), normal(f.Name)))
			if d < best {
				best, bestName = d, f.Name
			}
		}
	}
	return bestName
}

// edits is the Levenshtein distance.
func edits(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, diagonal+1)
		}
	}
	return row[len(b)]
}
