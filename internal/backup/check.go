package backup

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"cowl/internal/block"
	"cowl/internal/errs"
)

// Damage is a run of bytes that are not what they should be.
type Damage struct {
	Off   int64  `json:"offset"`
	Len   int64  `json:"length"`
	Cause string `json:"cause"`
}

func (d Damage) String() string {
	return fmt.Sprintf("bytes %d to %d: %s", d.Off, d.Off+d.Len-1, d.Cause)
}

// checkRanges compares a device's first size bytes with the hashes of its
// ranges, several ranges at once, and returns those that differ or cannot be
// read, in order. The error is of the context only.
func checkRanges(ctx context.Context, dev block.Device, size, length int64, want []string, done func(int64)) ([]Damage, error) {
	var (
		mu     sync.Mutex
		found  []Damage
		wg     sync.WaitGroup
		ranges = make(chan int)
	)
	for range min(runtime.GOMAXPROCS(0), 8) {
		wg.Go(func() {
			buf := make([]byte, bufferBytes)
			for n := range ranges {
				off := int64(n) * length
				d := Damage{Off: off, Len: min(length, size-off)}
				if d.Cause = checkRange(ctx, dev, d.Off, d.Len, want[n], buf); d.Cause != "" {
					mu.Lock()
					found = append(found, d)
					mu.Unlock()
				}
				done(d.Len)
			}
		})
	}
	for n := range want {
		select {
		case ranges <- n:
		case <-ctx.Done():
		}
	}
	close(ranges)
	wg.Wait()
	slices.SortFunc(found, func(a, b Damage) int { return int(min(max(a.Off-b.Off, -1), 1)) })
	return found, context.Cause(ctx)
}

// checkRange says what is wrong with one range, "" for nothing.
func checkRange(ctx context.Context, dev block.Device, off, length int64, want string, buf []byte) string {
	got, err := hashRange(ctx, dev, off, length, buf)
	switch {
	case err != nil:
		return err.Error()
	case got != want:
		return fmt.Sprintf("SHA-256 differs (want %s, got %s)", want, got)
	}
	return ""
}

// hashRange reads a range of a device, but not what is known to be zeroes.
func hashRange(ctx context.Context, dev block.Device, off, length int64, buf []byte) (string, error) {
	h := newRangeHash(length)
	for e, err := range dev.Extents(off, length) {
		if err != nil {
			return "", err
		}
		if e.Kind != block.Data {
			h.addRun(nil, e.Len, true)
			continue
		}
		for e.Len > 0 {
			if ctx.Err() != nil {
				return "", context.Cause(ctx)
			}
			b := buf[:min(e.Len, int64(len(buf)))]
			if _, err := dev.ReadAt(b, e.Off); err != nil {
				return "", err
			}
			h.addRun(b, int64(len(b)), isZero(b))
			e.Off += int64(len(b))
			e.Len -= int64(len(b))
		}
	}
	if sums := h.sums(); len(sums) == 1 {
		return sums[0], nil
	}
	return "", errors.New("the map of extents does not cover the range")
}

// errDamaged makes one error of what was found in an object, nil of nothing.
func errDamaged(object string, found []Damage) error {
	switch len(found) {
	case 0:
		return nil
	case 1:
		return errs.E(errs.Corrupt, "%s is damaged: %s", object, found[0])
	}
	return errs.E(errs.Corrupt, "%s is damaged in %d places, the first: %s", object, len(found), found[0])
}
