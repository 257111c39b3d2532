package archive

import "unsafe"

// chunks is a long list that grows without being copied.
type chunks[T any] struct {
	parts []*[chunkLen]T
	n     int
}

const chunkLen = 1024

func (c *chunks[T]) at(i int32) *T { return &c.parts[i/chunkLen][i%chunkLen] }

// add returns the number of a new element, which is zero.
func (c *chunks[T]) add() int32 {
	if c.n == len(c.parts)*chunkLen {
		c.parts = append(c.parts, new([chunkLen]T))
	}
	c.n++
	return int32(c.n - 1)
}

// size is what an element takes, in bytes.
func (c *chunks[T]) size() int64 { return int64(unsafe.Sizeof(*new(T))) }
