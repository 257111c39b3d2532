package linear

import (
	"math"
	"slices"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Area is where a stripe begins.
type Area struct {
	Dev    block.Device
	DevOff int64
}

// Stripe deals out chunks of chunk bytes to areas in turn, as dm-stripe does:
// chunk i of the device is chunk i/n of area i%n. Size must be a multiple of
// chunk times the number of areas, and each area's share lie within its device;
// anything else is errs.Usage. All in bytes.
func Stripe(areas []Area, chunk, size int64) (*Device, error) {
	n := int64(len(areas))
	if n == 0 || chunk <= 0 || chunk > math.MaxInt64/n || size < 0 || size%(chunk*n) != 0 {
		return nil, errs.E(errs.Usage, "stripe device: %d bytes do not divide into chunks of %d over %d areas", size, chunk, n)
	}
	var below []block.Device
	for i, a := range areas {
		if err := block.CheckRange(a.DevOff, size/n, a.Dev.Size()); err != nil {
			return nil, errs.E(errs.Usage, "stripe device: area %d: %w", i, err)
		}
		below = append(below, a.Dev)
	}
	return newDevice(stripes{slices.Clone(areas), chunk}, size, below), nil
}

type stripes struct {
	areas []Area
	chunk int64 // bytes
}

func (s stripes) place(off, length int64) (dev block.Device, devOff, n int64) {
	chunk, within := off/s.chunk, off%s.chunk
	a := s.areas[chunk%int64(len(s.areas))]
	row := chunk / int64(len(s.areas))
	return a.Dev, a.DevOff + row*s.chunk + within, min(length, s.chunk-within)
}
