package fsdiff

import (
	"bytes"
	"cmp"
	"iter"
	"slices"

	"cowl/internal/format/ext4"
	"cowl/internal/fsread"
)

// cursor goes through a directory by name.
type cursor struct {
	d     *differ
	side  side
	entry fsread.Entry
	taken bool // the entry at hand is dealt with
	done  bool
	pull  func() (fsread.Entry, error, bool)
	stop  func()
}

func (d *differ) cursor(s side, n *fsread.Node) *cursor {
	c := &cursor{d: d, side: s, taken: true}
	c.pull, c.stop = iter.Pull2(d.fs[s].ReadByName(n, d.budget, nil))
	return c
}

// advance moves on to an entry that was not taken.
func (c *cursor) advance(path string) error {
	for c.taken && !c.done {
		e, err, ok := c.pull()
		switch {
		case !ok:
			c.done = true
		case err == nil:
			c.entry, c.taken = e, false
		default:
			if err := c.d.failed(c.side, path, err); err != nil {
				return err
			}
		}
	}
	return nil
}

// take returns the entry at hand, which is dealt with then.
func (c *cursor) take() fsread.Entry {
	c.taken = true
	return c.entry
}

// visibleFlags are what chattr sets and lsattr shows of a file's own: not how its
// content is kept.
const visibleFlags = 0x01 | 0x02 | 0x04 | 0x08 | 0x10 | 0x20 | 0x40 | 0x80 | 0x4000 | 0x10000 | 0x20000 | 0x800000 | 0x2000000 |
	0x20000000 | ext4.FlagCasefold

// compare is compareOnce, which is not called again for the other names of a file in
// which nothing differs.
func (d *differ) compare(path string, na, nb *fsread.Node) (what []string, err error) {
	key := [2]ext4.Ino{na.Ino, nb.Ino}
	if _, ok := d.alike[key]; ok {
		return nil, nil
	}
	what, err = d.compareOnce(path, na, nb)
	if err == nil && len(what) == 0 && na.Links > 1 && nb.Links > 1 && nb.Mode.Type() != ext4.TypeDir && len(d.alike) < maxAlike {
		d.alike[key] = struct{}{}
	}
	return what, err
}

// compareOnce returns what differs of two files of one type. What cannot be read is
// asked about, and counts as the same.
func (d *differ) compareOnce(path string, na, nb *fsread.Node) (what []string, err error) {
	content, same, xattrs := "", true, true
	if !d.o.Quick || !d.kin || d.pair != nil || !sameInode(na, nb) {
		if content, same, err = d.sameContent(path, na, nb); err != nil {
			return nil, err
		}
		if xattrs, err = d.sameXattrs(path, na, nb); err != nil {
			return nil, err
		}
	}
	for _, p := range []struct {
		word string
		same bool
	}{
		{content, same},
		{Mode, na.Mode == nb.Mode},
		{Owner, na.UID == nb.UID && na.GID == nb.GID},
		{Flags, na.Flags&visibleFlags == nb.Flags&visibleFlags},
		{Project, na.Project == nb.Project},
		{Xattrs, xattrs},
		{Time, !same || na.Mode.Type() == ext4.TypeDir || na.Mtime.Equal(nb.Mtime)},
	} {
		if !p.same {
			what = append(what, p.word)
		}
	}
	return what, nil
}

// sameInode tells whether two inodes are one that nobody has written to since,
// as far as they themselves say.
func sameInode(a, b *fsread.Node) bool {
	return a.Ino == b.Ino && a.Generation == b.Generation && a.Size == b.Size && a.Mtime.Equal(b.Mtime) && a.Ctime.Equal(b.Ctime) && a.Block == b.Block
}

// sameContent compares what files are there for, and says what that is.
func (d *differ) sameContent(path string, na, nb *fsread.Node) (what string, same bool, err error) {
	switch na.Mode.Type() {
	case ext4.TypeFile:
		same, err := d.sameBytes(path, na, nb)
		return Content, same, err
	case ext4.TypeSymlink:
		var targets [2]string
		for s, n := range []*fsread.Node{na, nb} {
			if targets[s], err = d.fs[s].Readlink(n); err != nil {
				return Target, true, d.failed(side(s), path, err)
			}
		}
		return Target, targets[sideA] == targets[sideB], nil
	case ext4.TypeChar, ext4.TypeBlock:
		majorA, minorA := na.Device()
		majorB, minorB := nb.Device()
		return Device, majorA == majorB && minorA == minorB, nil
	}
	return "", true, nil
}

// sameXattrs compares extended attributes, in whatever order they are.
func (d *differ) sameXattrs(path string, na, nb *fsread.Node) (bool, error) {
	var attrs [2][]fsread.Xattr
	for s, n := range []*fsread.Node{na, nb} {
		var err error
		if attrs[s], err = d.fs[s].Xattrs(n); err != nil {
			return true, d.failed(side(s), path, err)
		}
		attrs[s] = slices.SortedFunc(slices.Values(attrs[s]), func(x, y fsread.Xattr) int { return cmp.Compare(x.Name, y.Name) })
	}
	return slices.EqualFunc(attrs[sideA], attrs[sideB], func(x, y fsread.Xattr) bool {
		return x.Name == y.Name && bytes.Equal(x.Value, y.Value)
	}), nil
}
