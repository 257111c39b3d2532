package cli

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"cowl/internal/archive"
	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// lsFlags are the options of cowl ls.
type lsFlags struct {
	long, recursive, directory, inode, unsorted, null, json bool
	access                                                  accessFlags
}

func newLs(a *app) *cobra.Command {
	var o lsFlags
	cmd := &cobra.Command{
		Use: "ls SOURCE[:/PATH]... [OPTION]...", Short: "List files in a volume or image, without mounting it", GroupID: groupOwn,
		Long: `List files and what is in directories, hidden ones included. Owners are numbers:
their names are of the machine that the files belong to. With -R every line is a
path, as find prints it.

` + insideHelp + `

Characters that a terminal would obey, and bytes that are not UTF-8, are shown as
a question mark; -0 and --json print names as they are.`,
		Example: `  cowl ls server1/rootsnapshot:/etc
  cowl ls -l /backups/server1-root.20260102T030405Z.raw:/home
  cowl ls -l repo:/backups/cowl::server1/root:/home
  cowl ls -R -0 disk.img#1:/var | xargs -0 -n1 echo
  cowl ls --json server1/home:/`,
		Args: atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error { return o.run(cmd.Context(), a, args) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVarP(&o.long, "long", "l", false, "mode, links, owners, size and time before the name")
	f.BoolVarP(&o.recursive, "recursive", "R", false, "all that is below, by path")
	f.BoolVarP(&o.directory, "directory", "d", false, "directories themselves, not what is in them")
	f.BoolVarP(&o.inode, "inode", "i", false, "the inode's number first")
	f.BoolVarP(&o.unsorted, "unsorted", "U", false, "in the order of the disk, which is quicker")
	f.BoolVarP(&o.null, "null", "0", false, "names as they are, each ended by a NUL byte")
	f.BoolVar(&o.json, "json", false, "print JSON: an object with a list of files")
	o.access.add(f)
	return cmd
}

func (o *lsFlags) run(ctx context.Context, a *app, args []string) error {
	l := &lister{o: o, a: a, out: bufio.NewWriterSize(a.Stdout, 64<<10)}
	if o.json {
		l.out.WriteString("{\n  \"files\": [")
	}
	var failed error
	for _, arg := range args {
		at := insideArg(arg)
		err := a.withFiles(ctx, at, o.access, filesOptions{}, func(fl *files) error { return l.list(ctx, fl, at) })
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			l.out.Flush()
			a.complain(err)
			failed = coded{errSilent, max(exitCode(failed), exitCode(err))}
		}
	}
	if o.json {
		l.out.WriteString("\n  ]\n}\n")
	}
	return errors.Join(failed, l.out.Flush())
}

// lister prints files.
type lister struct {
	o     *lsFlags
	a     *app
	out   *bufio.Writer
	lines int
	fs    details
}

// details are what a file system knows of a node beside what is in it.
type details interface {
	Readlink(*fsread.Node) (string, error)
	Xattrs(*fsread.Node) ([]fsread.Xattr, error)
}

// list prints what a path leads to. What cannot be read is complained of, and
// the rest printed.
func (l *lister) list(ctx context.Context, fl *files, at inside) error {
	if fl.fs == nil {
		o := treeOptions{flat: !l.o.recursive, byName: !l.o.unsorted}
		return fl.tree(at, o, func(tree archive.Tree) error { return l.listShown(ctx, tree, at) })
	}
	fs := fl.fs
	l.fs = fs
	start, err := fs.Lookup(at.path, false)
	if err != nil {
		return fmt.Errorf("%s:%w", at.source, err)
	}
	if l.o.directory || start.Mode.Type() != ext4.TypeDir {
		return l.print(at.path, &fsread.Item{Name: path.Base(at.path), Ino: start.Ino, Type: start.Mode.Type(), Node: start})
	}
	opts := fsread.WalkOptions{Order: fsread.ByName, NamesOnly: !l.o.long && !l.o.json, Flat: !l.o.recursive}
	if l.o.unsorted {
		opts.Order = fsread.ByInode
	}
	var failed error
	err = fs.Walk(ctx, start, opts, func(it *fsread.Item) error {
		if it.Err != nil {
			l.out.Flush()
			l.a.complain(fmt.Errorf("%s: %w", inside{at.source, join(at.path, it.Path)}, it.Err))
			failed = errSilent
		}
		if it.Path == "" && (it.Err != nil || !l.o.recursive) || it.Err != nil && it.Node != nil {
			return nil
		}
		return l.print(join(at.path, it.Path), it)
	})
	return errors.Join(err, failed)
}

// join puts a path in the image together.
func join(dir, rest string) string {
	if rest == "" {
		return dir
	}
	return strings.TrimSuffix(dir, "/") + "/" + rest
}

// print prints one file. Its error is of writing only.
func (l *lister) print(full string, it *fsread.Item) error {
	l.lines++
	if l.o.json {
		return l.printJSON(full, it)
	}
	name := it.Name
	if l.o.recursive {
		name = full
	}
	if l.o.inode {
		fmt.Fprintf(l.out, "%10d ", it.Ino)
	}
	if l.o.long {
		l.details(it.Node)
	}
	end := byte('\n')
	if l.o.null {
		end = 0
	} else {
		name = printable(name)
	}
	l.out.WriteString(name)
	if l.o.long && it.Type == ext4.TypeSymlink && it.Node != nil {
		if target, err := l.fs.Readlink(it.Node); err == nil {
			l.out.WriteString(" -> " + printable(target))
		}
	}
	return l.out.WriteByte(end)
}

// details prints what -l shows before the name.
func (l *lister) details(n *fsread.Node) {
	if n == nil {
		fmt.Fprintf(l.out, "%-11s %4s %7s %7s %12s %-16s ", "??????????", "?", "?", "?", "?", "?")
		return
	}
	size := fmt.Sprint(n.Size)
	if t := n.Mode.Type(); t == ext4.TypeChar || t == ext4.TypeBlock {
		major, minor := n.Device()
		size = fmt.Sprintf("%d,%d", major, minor)
	}
	fmt.Fprintf(l.out, "%-11s %4d %7d %7d %12s %s ", modeText(n.Mode)+l.plus(n), n.Links, n.UID, n.GID, size,
		n.Mtime.In(l.a.Zone).Format("2006-01-02 15:04"))
}

// plus is the sign of an access control list.
func (l *lister) plus(n *fsread.Node) string {
	attrs, _ := l.fs.Xattrs(n)
	for _, a := range attrs {
		if strings.HasPrefix(a.Name, "system.posix_acl") {
			return "+"
		}
	}
	return ""
}

// typeLetters are how ls shows types.
var typeLetters = map[ext4.Mode]byte{ext4.TypeFIFO: 'p', ext4.TypeChar: 'c', ext4.TypeDir: 'd', ext4.TypeBlock: 'b',
	ext4.TypeFile: '-', ext4.TypeSymlink: 'l', ext4.TypeSocket: 's'}

// modeText is a mode as ls -l shows it.
func modeText(m ext4.Mode) string {
	b := []byte("?rwxrwxrwx")
	b[0] = typeLetters[m.Type()]
	for i := range 9 {
		if m&(1<<(8-i)) == 0 {
			b[i+1] = '-'
		}
	}
	for _, s := range []struct {
		bit     ext4.Mode
		at      int
		on, off byte
	}{{0o4000, 3, 's', 'S'}, {0o2000, 6, 's', 'S'}, {0o1000, 9, 't', 'T'}} {
		if m&s.bit != 0 {
			if b[s.at] == 'x' {
				b[s.at] = s.on
			} else {
				b[s.at] = s.off
			}
		}
	}
	return string(b)
}

// printable replaces what a terminal might obey.
func printable(name string) string {
	return strings.Map(func(r rune) rune {
		if r == utf8.RuneError || unicode.IsControl(r) {
			return '?'
		}
		return r
	}, name)
}

// listedFile is a file in the JSON listing. Bytes that are not UTF-8 are in the
// members that end in _base64 instead.
type listedFile struct {
	Path         string            `json:"path,omitempty"`
	PathBase64   []byte            `json:"path_base64,omitempty"`
	Type         string            `json:"type"`
	Inode        uint32            `json:"inode"`
	Mode         string            `json:"mode"`
	Links        uint16            `json:"links"`
	UID          uint32            `json:"uid"`
	GID          uint32            `json:"gid"`
	Size         int64             `json:"size"`
	Allocated    uint64            `json:"allocated_bytes"`
	Modified     time.Time         `json:"modified"`
	Changed      time.Time         `json:"changed"`
	Accessed     time.Time         `json:"accessed"`
	Born         *time.Time        `json:"born,omitempty"`
	Target       string            `json:"target,omitempty"`
	TargetBase64 []byte            `json:"target_base64,omitempty"`
	Device       string            `json:"device,omitempty"`
	Xattrs       map[string]string `json:"xattrs_base64,omitempty"`
	Error        string            `json:"error,omitempty"`
}

// typeNames are the types in JSON.
var typeNames = map[ext4.Mode]string{ext4.TypeFIFO: "fifo", ext4.TypeChar: "character device", ext4.TypeDir: "directory",
	ext4.TypeBlock: "block device", ext4.TypeFile: "file", ext4.TypeSymlink: "symlink", ext4.TypeSocket: "socket"}

func (l *lister) printJSON(full string, it *fsread.Item) error {
	r := listedFile{Type: typeNames[it.Type], Inode: uint32(it.Ino)}
	r.Path, r.PathBase64 = textOrBytes(full)
	if it.Node == nil {
		r.Error = it.Err.Error()
	} else if err := r.describe(l.fs, it.Node); err != nil {
		r.Error = err.Error()
	}
	text, err := json.Marshal(r)
	if err != nil {
		return err
	}
	if l.lines > 1 {
		l.out.WriteByte(',')
	}
	l.out.WriteString("\n    ")
	_, err = l.out.Write(text)
	return err
}

// describe fills in what a node says.
func (r *listedFile) describe(fs details, n *fsread.Node) error {
	r.Mode, r.Links, r.UID, r.GID = fmt.Sprintf("%04o", n.Mode.Perm()), n.Links, n.UID, n.GID
	r.Size, r.Allocated = n.Size, n.Blocks()*512
	r.Modified, r.Changed, r.Accessed = n.Mtime.UTC(), n.Ctime.UTC(), n.Atime.UTC()
	if !n.Crtime.IsZero() {
		born := n.Crtime.UTC()
		r.Born = &born
	}
	switch n.Mode.Type() {
	case ext4.TypeSymlink:
		target, err := fs.Readlink(n)
		if err != nil {
			return err
		}
		r.Target, r.TargetBase64 = textOrBytes(target)
	case ext4.TypeChar, ext4.TypeBlock:
		major, minor := n.Device()
		r.Device = fmt.Sprintf("%d:%d", major, minor)
	}
	attrs, err := fs.Xattrs(n)
	for _, a := range attrs {
		if r.Xattrs == nil {
			r.Xattrs = map[string]string{}
		}
		r.Xattrs[a.Name] = base64.StdEncoding.EncodeToString(a.Value)
	}
	return err
}

// textOrBytes returns a name in the member of JSON that can hold it.
func textOrBytes(name string) (text string, raw []byte) {
	if utf8.ValidString(name) {
		return name, nil
	}
	return "", []byte(name)
}
