package linear

import (
	"slices"
	"sort"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Target maps the bytes [Off, Off+Len) of a device to those of Dev that begin
// at DevOff.
type Target struct {
	Off, Len int64
	Dev      block.Device
	DevOff   int64
}

// New concatenates targets, which must be in order, without gap or overlap,
// from offset 0, and lie within their devices; anything else is errs.Usage. No
// targets make a device of no bytes.
func New(targets []Target) (*Device, error) {
	var size int64
	var below []block.Device
	for i, t := range targets {
		if t.Off != size || t.Len <= 0 {
			return nil, errs.E(errs.Usage, "map device: target %d covers %d bytes from %d, where %d is due", i, t.Len, t.Off, size)
		}
		if err := block.CheckRange(t.DevOff, t.Len, t.Dev.Size()); err != nil {
			return nil, errs.E(errs.Usage, "map device: target %d: %w", i, err)
		}
		if size += t.Len; size < 0 {
			return nil, errs.E(errs.Usage, "map device: the targets are larger than any device")
		}
		below = append(below, t.Dev)
	}
	return newDevice(concatenation(slices.Clone(targets)), size, below), nil
}

// Section returns the part [off, off+length) of a device, such as a partition,
// as a device of its own. A range outside of the device is errs.Usage.
func Section(dev block.Device, off, length int64) (*Device, error) {
	if err := block.CheckRange(off, length, dev.Size()); err != nil {
		return nil, err
	}
	return newDevice(concatenation{{Len: length, Dev: dev, DevOff: off}}, length, []block.Device{dev}), nil
}

// concatenation is targets one after another.
type concatenation []Target

func (c concatenation) place(off, length int64) (dev block.Device, devOff, n int64) {
	i := 0
	if len(c) > 1 {
		i = sort.Search(len(c), func(i int) bool { return c[i].Off > off }) - 1
	}
	t := &c[i]
	return t.Dev, t.DevOff + off - t.Off, min(length, t.Off+t.Len-off)
}
