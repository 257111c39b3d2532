package report

import (
	"fmt"
	"io"
	"strings"
)

// WriteHelp lists all fields, as -o help does.
func (c *Catalog[R]) WriteHelp(w io.Writer) error {
	return c.writeFields(w, false)
}

// WriteSelectHelp lists all fields with their types, and the language of
// selections, as --select help does.
func (c *Catalog[R]) WriteSelectHelp(w io.Writer) error {
	if err := c.writeFields(w, true); err != nil {
		return err
	}
	_, err := io.WriteString(w, selectHelp)
	return err
}

// nameWidth is the width of the column of names in the help.
const nameWidth = 27

func (c *Catalog[R]) writeFields(w io.Writer, types bool) error {
	var b strings.Builder
	for i, s := range c.sections {
		if i > 0 {
			b.WriteString("   \n")
		}
		fmt.Fprintf(&b, "  %s\n  %s\n", s.Title, strings.Repeat("-", len(s.Title)))
		if s.All != "" && !types {
			fmt.Fprintf(&b, "    %-*s - All fields in this section.\n", nameWidth, s.All)
		}
		for _, f := range s.Fields {
			fmt.Fprintf(&b, "    %-*s - %s", nameWidth, f.Name, f.Help)
			if types {
				fmt.Fprintf(&b, " [%s]", f.Kind)
			}
			b.WriteByte('\n')
		}
	}
	b.WriteString("   \n")
	_, err := io.WriteString(w, b.String())
	return err
}

const selectHelp = `  Selection operands
  ------------------
    field               - A field of the report.
    number              - A whole number; -1, unknown, undefined or undef where there is none.
    size                - A number with a unit; without one, m.
    percent             - A number, with or without %.
    string              - Characters, quoted by ' or " where they have spaces or operators in them.
    string list         - One string that must be among the items; or strings in [ ] (these items and
                          no others) or { } (others are allowed), with && between if all must be
                          there and || if one is enough.
    time                - "2026-07-07 9:51:02 +01:00", parts may be left out from the right;
                          @seconds since 1970; today, yesterday, "2 weeks ago".
    regular expression  - Characters quoted by ' or " or unquoted.
   
  Comparison operators
  --------------------
    =~ !~               - Matching a regular expression, or not. [string]
    = !=                - Equal to, or not. [all]
    >= > <= <           - Compared in size. [number, size, percent, time]
    since after until before
                        - The same for times, in words. [time]
   
  Logical operators
  -----------------
    && ,                - Both must match; binds tighter than ||.
    || #                - One must match.
    !( )                - Must not match.
    ( )                 - Grouping.
   
`
