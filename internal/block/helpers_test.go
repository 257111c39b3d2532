package block_test

import (
	"errors"
	"iter"
	"slices"
	"testing"

	"cowl/internal/block"
)

// extents yields the given extents and then, unless nil, the error.
func extents(err error, es ...block.Extent) iter.Seq2[block.Extent, error] {
	return func(yield func(block.Extent, error) bool) {
		for _, e := range es {
			if !yield(e, nil) {
				return
			}
		}
		if err != nil {
			yield(block.Extent{}, err)
		}
	}
}

func TestCoalesce(t *testing.T) {
	broken := errors.New("broken")
	a, b := block.Extent{Len: 10}, block.Extent{Off: 10, Len: 5}
	hole := block.Extent{Off: 15, Len: 5, Kind: block.Hole}
	deep := block.Extent{Off: 20, Len: 5, Kind: block.Hole, Depth: 1}
	joined := block.Extent{Len: 15}

	for name, c := range map[string]struct {
		in   []block.Extent
		err  error
		want []block.Extent
	}{
		"nothing":              {},
		"only an error":        {err: broken},
		"joins equals":         {in: []block.Extent{a, b, hole}, want: []block.Extent{joined, hole}},
		"keeps depths apart":   {in: []block.Extent{hole, deep}, want: []block.Extent{hole, deep}},
		"keeps gaps":           {in: []block.Extent{a, hole}, want: []block.Extent{a, hole}},
		"error after the last": {in: []block.Extent{a, b}, err: broken, want: []block.Extent{joined}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []block.Extent
			var gotErr error
			for e, err := range block.Coalesce(extents(c.err, c.in...)) {
				if err != nil {
					gotErr = err
					continue
				}
				got = append(got, e)
			}
			if !slices.Equal(got, c.want) || gotErr != c.err {
				t.Errorf("got %v, %v; want %v, %v", got, gotErr, c.want, c.err)
			}
		})
	}
}

// A consumer that stops early must not be called again.
func TestCoalesceStops(t *testing.T) {
	a := block.Extent{Len: 10}
	hole := block.Extent{Off: 10, Len: 5, Kind: block.Hole}
	n := 0
	for range block.Coalesce(extents(errors.New("late"), a, hole)) {
		n++
		break
	}
	if n != 1 {
		t.Errorf("called %d times, want 1", n)
	}
}

func TestCheckRange(t *testing.T) {
	const maxInt64 = 1<<63 - 1
	for _, c := range []struct {
		off, length, size int64
		ok                bool
	}{
		{0, 0, 0, true}, {0, 10, 10, true}, {10, 0, 10, true}, {9, 1, 10, true},
		{0, 11, 10, false}, {10, 1, 10, false}, {11, 0, 10, false},
		{-1, 1, 10, false}, {0, -1, 10, false},
		{maxInt64, 1, 10, false}, {1, maxInt64, maxInt64, false}, {maxInt64, maxInt64, maxInt64, false},
	} {
		if err := block.CheckRange(c.off, c.length, c.size); (err == nil) != c.ok {
			t.Errorf("CheckRange(%d, %d, %d) = %v, want ok %v", c.off, c.length, c.size, err, c.ok)
		}
	}
}
