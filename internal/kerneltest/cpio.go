package kerneltest

import (
	"fmt"
	"io"
	"path"
	"strings"
)

// File types of a cpio header's mode.
const (
	cpioDir     = 0o040000
	cpioRegular = 0o100000
	cpioSymlink = 0o120000
)

// cpioWriter writes an initramfs: the "newc" format that the kernel unpacks,
// described in its Documentation/driver-api/early-userspace/buffer-format.rst.
// Parent directories appear by themselves. The first error sticks.
type cpioWriter struct {
	w     io.Writer
	off   int64
	inode int
	seen  map[string]bool
	err   error
}

func newCpio(w io.Writer) *cpioWriter {
	return &cpioWriter{w: w, seen: map[string]bool{".": true, "/": true}}
}

func (c *cpioWriter) dir(name string) { c.entry(name, cpioDir|0o755, nil) }

func (c *cpioWriter) file(name string, perm int, data []byte) { c.entry(name, cpioRegular|perm, data) }

func (c *cpioWriter) symlink(name, target string) { c.entry(name, cpioSymlink|0o777, []byte(target)) }

// entry writes one file. A name that was written before is left as it is.
func (c *cpioWriter) entry(name string, mode int, data []byte) {
	name = strings.TrimPrefix(path.Clean(name), "/")
	if c.seen[name] || name == "" {
		return
	}
	c.dir(path.Dir(name))
	c.seen[name] = true
	c.inode++
	c.header(name, mode, len(data))
	c.bytes(data)
	c.pad()
}

// close writes the trailer and returns the first error.
func (c *cpioWriter) close() error {
	c.inode = 0
	c.header("TRAILER!!!", 0, 0)
	return c.err
}

func (c *cpioWriter) header(name string, mode, size int) {
	// magic, inode, mode, uid, gid, links, mtime, size, device, special device,
	// length of the name with its NUL, checksum
	fields := []int{c.inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, len(name) + 1, 0}
	var b strings.Builder
	b.WriteString("070701")
	for _, f := range fields {
		fmt.Fprintf(&b, "%08x", f)
	}
	b.WriteString(name)
	b.WriteByte(0)
	c.bytes([]byte(b.String()))
	c.pad()
}

func (c *cpioWriter) bytes(b []byte) {
	if c.err != nil {
		return
	}
	n, err := c.w.Write(b)
	c.off += int64(n)
	c.err = err
}

func (c *cpioWriter) pad() { c.bytes(make([]byte, -c.off&3)) }
