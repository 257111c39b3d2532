package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/rogpeppe/go-internal/diff"

	"cowl/internal/archive"
	"cowl/internal/format/ext4"
	"cowl/internal/fsdiff"
	"cowl/internal/fsread"
)

// diffTotal counts what differs. Sizes are in bytes.
type diffTotal struct {
	Added        int64 `json:"added"`
	AddedBytes   int64 `json:"added_bytes"`
	Removed      int64 `json:"removed"`
	RemovedBytes int64 `json:"removed_bytes"`
	Changed      int64 `json:"changed"`
	Renamed      int64 `json:"renamed"`
	Metadata     int64 `json:"metadata"`
	Replaced     int64 `json:"replaced"`

	ranges int64 // of blocks
}

// found is how many differences there are.
func (t *diffTotal) found() int64 {
	return t.Added + t.Removed + t.Changed + t.Renamed + t.Metadata + t.Replaced + t.ranges
}

// count counts a change.
func (t *diffTotal) count(c *fsdiff.Change) {
	switch c.Kind {
	case fsdiff.Added:
		t.Added++
		t.AddedBytes += fileBytes(c.B)
	case fsdiff.Removed:
		t.Removed++
		t.RemovedBytes += fileBytes(c.A)
	case fsdiff.Changed:
		t.Changed++
	case fsdiff.Renamed:
		t.Renamed++
	case fsdiff.Metadata:
		t.Metadata++
	case fsdiff.Replaced:
		t.Replaced++
	}
}

// fileBytes is how long a regular file is.
func fileBytes(n *fsread.Node) int64 {
	if n == nil || n.Mode.Type() != ext4.TypeFile {
		return 0
	}
	return n.Size
}

// String is the line that --stat prints.
func (t *diffTotal) String() string {
	if t.found() == 0 {
		return "No differences."
	}
	return countsText([]countOf{{t.Added, "added", t.AddedBytes}, {t.Removed, "removed", t.RemovedBytes}, {t.Changed, "changed", 0}, {t.Renamed, "renamed", 0},
		{t.Metadata, "with other metadata", 0}, {t.Replaced, "replaced", 0}})
}

// countOf is how many files of a kind there are, and how many bytes they have, 0 if
// that does not matter.
type countOf struct {
	n     int64
	text  string
	bytes int64
}

// countsText is a sentence of those that are not 0.
func countsText(counts []countOf) string {
	var parts []string
	for _, p := range counts {
		switch {
		case p.n == 0:
		case p.bytes > 0:
			parts = append(parts, fmt.Sprintf("%d %s (%s)", p.n, p.text, sizeText(p.bytes)))
		default:
			parts = append(parts, fmt.Sprintf("%d %s", p.n, p.text))
		}
	}
	return strings.Join(parts, ", ") + "."
}

// beginFiles begins to print what differs.
func (d *comparing) beginFiles(blocksKnown bool) {
	if !d.json {
		return
	}
	fmt.Fprintf(d.out, "{\n  \"a\": %s,\n  \"b\": %s,\n  \"blocks_known\": %t,", jsonText(d.at[0].String()), jsonText(d.at[1].String()), blocksKnown)
	if !d.stat {
		d.out.WriteString("\n  \"changes\": [")
	}
}

// endFiles prints the totals.
func (d *comparing) endFiles() error {
	switch {
	case d.json:
		if !d.stat {
			d.out.WriteString("\n  ],")
		}
		text, err := json.Marshal(d.total)
		fmt.Fprintf(d.out, "\n  \"complete\": %t,\n  \"total\": %s\n}\n", !d.incomplete, text)
		return err
	case d.stat:
		fmt.Fprintln(d.out, indent+d.total.String())
	}
	return nil
}

// jsonText is a string in JSON.
func jsonText(s string) []byte {
	text, _ := json.Marshal(s) // of a string that never fails
	return text
}

// show prints a change.
func (d *comparing) show(ctx context.Context, c *fsdiff.Change) error {
	if d.noTimes && c.Kind == fsdiff.Metadata && len(c.What) == 1 && c.What[0] == fsdiff.Time {
		d.times++
		return nil
	}
	d.total.count(c)
	switch {
	case d.stat, d.total.found() > d.lines:
		return nil
	case d.json:
		return d.showJSON(c)
	case d.tree:
		return d.showInTree(c)
	}
	if _, err := d.out.WriteString(printable(changeLine(c, c.Path)) + "\n"); err != nil || !d.unified {
		return err
	}
	return d.showText(ctx, c)
}

// changeLine is a change in a listing, under a name.
func changeLine(c *fsdiff.Change, name string) string {
	line := c.Kind.Letter() + " "
	if c.From != "" {
		line += c.From + " -> "
	}
	line += name
	var more []string
	for i, what := range c.What {
		if i > 0 || c.Kind != fsdiff.Changed || what != fsdiff.Content {
			more = append(more, whatText(c, what))
		}
	}
	if len(more) > 0 {
		line += " (" + strings.Join(more, ", ") + ")"
	}
	return line
}

// whatText says what differs, with the values where they are short.
func whatText(c *fsdiff.Change, what string) string {
	switch what {
	case fsdiff.Mode:
		return fmt.Sprintf("mode %04o -> %04o", c.A.Mode.Perm(), c.B.Mode.Perm())
	case fsdiff.Owner:
		return fmt.Sprintf("owner %d:%d -> %d:%d", c.A.UID, c.A.GID, c.B.UID, c.B.GID)
	case fsdiff.Type:
		return fmt.Sprintf("%s -> %s", typeNames[c.A.Mode.Type()], typeNames[c.B.Mode.Type()])
	}
	return what
}

// showInTree prints a change below its directories, of which those are printed
// that were not.
func (d *comparing) showInTree(c *fsdiff.Change) error {
	names := strings.Split(strings.TrimPrefix(c.Path, "/"), "/")
	depth := 0
	for depth < len(names)-1 && depth < len(d.shown) && names[depth] == d.shown[depth] {
		depth++
	}
	for ; depth < len(names)-1; depth++ {
		fmt.Fprintf(d.out, "%*s%s/\n", 2*depth+2, "", printable(names[depth]))
	}
	d.shown = names
	letter, rest, _ := strings.Cut(changeLine(c, names[depth]), " ")
	_, err := fmt.Fprintf(d.out, "%s %*s%s\n", letter, 2*depth, "", printable(rest))
	return err
}

// changeJSON is a change in --json.
type changeJSON struct {
	Kind       fsdiff.Kind `json:"kind"`
	Path       string      `json:"path,omitempty"`
	PathBase64 []byte      `json:"path_base64,omitempty"`
	From       string      `json:"from,omitempty"`
	FromBase64 []byte      `json:"from_base64,omitempty"`
	What       []string    `json:"what,omitempty"`
	A          *listedFile `json:"a,omitempty"`
	B          *listedFile `json:"b,omitempty"`
}

func (d *comparing) showJSON(c *fsdiff.Change) error {
	r := changeJSON{Kind: c.Kind, What: c.What, A: nodeJSON(d.details(0, c), c.A), B: nodeJSON(d.details(1, c), c.B)}
	r.Path, r.PathBase64 = textOrBytes(c.Path)
	r.From, r.FromBase64 = textOrBytes(c.From)
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if d.total.found() > 1 {
		d.out.WriteByte(',')
	}
	d.out.WriteString("\n    ")
	_, err = d.out.Write(text)
	return err
}

// details are what is known of a file beside its node.
func (d *comparing) details(i int, c *fsdiff.Change) details {
	if f := c.Files[i]; f != nil {
		return shown{f}
	}
	return d.fs[i]
}

// nodeJSON is a node as ls --json lists it, without a path.
func nodeJSON(fs details, n *fsread.Node) *listedFile {
	if n == nil {
		return nil
	}
	r := &listedFile{Type: typeNames[n.Mode.Type()], Inode: uint32(n.Ino)}
	if err := r.describe(fs, n); err != nil {
		r.Error = err.Error()
	}
	return r
}

// maxText bounds the files of which differences are shown, bytes.
const maxText = 4 << 20

// showText shows how two files differ, if they are text.
func (d *comparing) showText(ctx context.Context, c *fsdiff.Change) error {
	isText := c.Kind == fsdiff.Added || c.Kind == fsdiff.Removed || slices.Contains(c.What, fsdiff.Content)
	var content [2][]byte
	for i, n := range []*fsread.Node{c.A, c.B} {
		if n == nil || !isText {
			continue
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		var err error
		if content[i], err = d.content(i, n, c.Files[i]); err != nil {
			return d.unreadable(fmt.Errorf("%s: %w", inside{d.at[i].source, join(d.at[i].path, strings.TrimPrefix(c.Path, "/"))}, err))
		}
		isText = content[i] != nil
	}
	if !isText {
		return nil
	}
	names := [2]string{"/dev/null", "/dev/null"}
	if c.A != nil {
		names[0] = "a" + c.Path
		if c.From != "" {
			names[0] = "a" + c.From
		}
	}
	if c.B != nil {
		names[1] = "b" + c.Path
	}
	text := diff.Diff(printable(names[0]), content[0], printable(names[1]), content[1])
	_, rest, _ := bytes.Cut(text, []byte("\n")) // its first line says what ours has said
	if d.a.toTerminal() {
		rest = visible(rest)
	}
	_, err := d.out.Write(rest)
	return err
}

// content returns what is in a file of text, nil if it is none.
func (d *comparing) content(i int, n *fsread.Node, f archive.File) ([]byte, error) {
	if n.Mode.Type() != ext4.TypeFile || n.Size > maxText {
		return nil, nil
	}
	r, closeFile, err := d.reader(i, n, f)
	if err != nil {
		return nil, err
	}
	b := make([]byte, n.Size)
	_, err = r.ReadAt(b, 0)
	if err == io.EOF {
		err = nil
	}
	if err := errors.Join(err, closeFile()); err != nil {
		return nil, err
	}
	if bytes.IndexByte(b, 0) >= 0 || !utf8.Valid(b) {
		return nil, nil
	}
	return b, nil
}

// reader opens a file: f, or if that is nil, a node.
func (d *comparing) reader(i int, n *fsread.Node, f archive.File) (r io.ReaderAt, done func() error, err error) {
	done = func() error { return nil }
	if f == nil {
		r, err = d.fs[i].OpenFile(n)
		return r, done, err
	}
	c, err := f.Open()
	if c.Close != nil {
		done = c.Close
	}
	return c, done, err
}

// visible shows what a terminal would obey, lines and tabs left as they are, as Go
// writes it in a string.
func visible(text []byte) []byte {
	if !bytes.ContainsFunc(text, obeyed) {
		return text
	}
	var out []byte
	for _, r := range string(text) {
		if !obeyed(r) {
			out = utf8.AppendRune(out, r)
			continue
		}
		quoted := strconv.QuoteRuneToASCII(r)
		out = append(out, quoted[1:len(quoted)-1]...)
	}
	return out
}

func obeyed(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }
