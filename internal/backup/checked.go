package backup

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"

	"cowl/internal/block"
	"cowl/internal/block/file"
	"cowl/internal/errs"
)

// OpenImage opens what a raw or qcow2 image holds, to be read. If there is a
// manifest beside it, every range is held against that before a byte or a hole
// of it is told to anybody: what is damaged is errs.Corrupt, and the rest can be
// read. A range is read once more for it, and only once: 64 MiB, holes left out.
// checked tells whether that is so; with unchecked it is not, and nothing is
// read ahead of the image itself.
//
// The error is errs.Unsupported if the image is no volume's, and errs.Corrupt if
// it is not as long as it should be, or its manifest is damaged.
func OpenImage(path string, unchecked bool) (dev block.Device, checked bool, err error) {
	m, _, err := readManifest(path)
	format := Raw
	switch {
	case err == nil && m.Image.Format == Tar:
		return nil, false, errNoBlocks(path)
	case err == nil:
		format = m.Image.Format
	case errs.Is(err, errs.NotFound), unchecked && errs.Is(err, errs.Corrupt):
		if format, err = formatOf(path); err != nil {
			return nil, false, err
		}
		m = nil
	default:
		return nil, false, err
	}
	if dev, err = openContent(path, format); err != nil || m == nil || unchecked {
		return dev, false, err
	}
	want := m.Image.content()
	if want.Bytes != dev.Size() {
		err := errs.E(errs.Corrupt, "image %s holds %d bytes, its manifest says %d", path, dev.Size(), want.Bytes)
		return nil, false, errors.Join(err, dev.Close())
	}
	return &checkedImage{below: dev, name: path, want: want, ranges: map[int64]*checkedRange{}}, true, nil
}

// formatOf says what an image without a manifest looks like.
func formatOf(path string) (Format, error) {
	is, err := looksLikeQcow2(path)
	if err != nil || is {
		return Qcow2, err
	}
	dev, err := file.Open(path, file.Options{ReadOnly: true})
	if err != nil {
		return "", err
	}
	defer dev.Close()
	head := make([]byte, min(512, dev.Size()))
	if _, err := dev.ReadAt(head, 0); err != nil {
		return "", err
	}
	packed := bytes.HasPrefix(head, []byte("\x1f\x8b")) || bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd"))
	if packed || len(head) > 262 && bytes.Equal(head[257:262], []byte("ustar")) {
		return "", errNoBlocks(path)
	}
	return Raw, nil
}

// errNoBlocks says that a file is no volume's image.
func errNoBlocks(path string) error {
	return errs.WithHint(errs.E(errs.Unsupported, "%s is an archive or compressed, and no image of a volume: there are no blocks in it", path),
		"cowl ls %s lists what is in an archive, cowl cp brings files back.", path)
}

// checkedImage is an image that is held against its manifest.
type checkedImage struct {
	below block.Device
	name  string
	want  *Content

	mu     sync.Mutex
	ranges map[int64]*checkedRange // that were looked at, or are being; guarded by mu
}

// checkedRange is what is known of a range.
type checkedRange struct {
	done chan struct{} // closed when err is known
	err  error
}

var _ block.Device = (*checkedImage)(nil)

// check returns why a range must not be read. Who comes second waits for the
// first.
func (c *checkedImage) check(n int64) error {
	c.mu.Lock()
	r := c.ranges[n]
	if r != nil {
		c.mu.Unlock()
		<-r.done
		return r.err
	}
	r = &checkedRange{done: make(chan struct{})}
	c.ranges[n] = r
	c.mu.Unlock()
	defer close(r.done)
	off := n * c.want.RangeBytes
	length := min(c.want.RangeBytes, c.want.Bytes-off)
	got, err := hashRange(context.Background(), c.below, off, length, make([]byte, min(length, bufferBytes)))
	switch {
	case err != nil: // perhaps not the next time
		r.err = fmt.Errorf("image %s: %w", c.name, err)
		c.mu.Lock()
		delete(c.ranges, n)
		c.mu.Unlock()
	case got != c.want.Ranges[n]:
		d := Damage{Off: off, Len: length, Cause: fmt.Sprintf("SHA-256 differs (want %s, got %s)", c.want.Ranges[n], got)}
		r.err = errDamaged("image "+c.name, []Damage{d})
	}
	return r.err
}

// ReadAt implements block.Device.
func (c *checkedImage) ReadAt(p []byte, off int64) (int, error) {
	if err := block.CheckRange(off, int64(len(p)), c.want.Bytes); err != nil {
		return 0, err
	}
	if len(p) > 0 {
		for n := off / c.want.RangeBytes; n <= (off+int64(len(p))-1)/c.want.RangeBytes; n++ {
			if err := c.check(n); err != nil {
				return 0, err
			}
		}
	}
	return c.below.ReadAt(p, off)
}

// Extents implements block.Device. A hole that should be none is damage as
// well, so nothing is said of a range that was not checked.
func (c *checkedImage) Extents(off, length int64) iter.Seq2[block.Extent, error] {
	if err := block.CheckRange(off, length, c.want.Bytes); err != nil {
		return block.NoExtents(err)
	}
	return func(yield func(block.Extent, error) bool) {
		for end := off + length; off < end; {
			n := off / c.want.RangeBytes
			length := min(end, (n+1)*c.want.RangeBytes) - off
			if err := c.check(n); err != nil {
				yield(block.Extent{}, err)
				return
			}
			for e, err := range c.below.Extents(off, length) {
				if !yield(e, err) || err != nil {
					return
				}
			}
			off += length
		}
	}
}

// Size implements block.Device.
func (c *checkedImage) Size() int64 { return c.want.Bytes }

// Caps implements block.Device.
func (c *checkedImage) Caps() block.Caps {
	return block.Caps{ReadOnly: true, BlockSize: c.below.Caps().BlockSize}
}

// WriteAt implements block.Device.
func (c *checkedImage) WriteAt([]byte, int64) (int, error) { return 0, block.ErrReadOnly }

// WriteZeroes implements block.Device.
func (c *checkedImage) WriteZeroes(int64, int64) error { return block.ErrReadOnly }

// Discard implements block.Device.
func (c *checkedImage) Discard(int64, int64) error { return block.ErrReadOnly }

// Flush implements block.Device.
func (c *checkedImage) Flush() error { return nil }

// Close implements block.Device.
func (c *checkedImage) Close() error { return c.below.Close() }
