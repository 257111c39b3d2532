package qcow2

import "encoding/binary"

const (
	countOrder = 4 // counts of 2^4 bits
	// countsPerBlock is how many clusters of the file a block counts.
	countsPerBlock = ClusterBytes / 2
	blockCovers    = countsPerBlock * ClusterBytes // bytes of the file
)

// counts is how often each cluster of the file is referred to: a cluster with
// compressed ones in it once for each, whole or not. 16 bits are enough: the
// shortest compressed cluster takes some ten bytes.
type counts struct {
	first  int64      // the first block that is open
	open   [][]uint16 // from there on
	blocks []uint64   // where those before it were written
}

// add counts one more reference to each cluster that [from, to) touches.
func (c *counts) add(from, to int64) {
	for no := from / ClusterBytes; no*ClusterBytes < to; no++ {
		c.block(no / countsPerBlock)[no%countsPerBlock]++
	}
}

// block returns an open block.
func (c *counts) block(no int64) []uint16 {
	for c.first+int64(len(c.open)) <= no {
		c.open = append(c.open, make([]uint16, countsPerBlock))
	}
	return c.open[no-c.first]
}

// flushCounts writes the blocks to which nothing can be added: nothing is placed
// before where the file ends.
func (w *Writer) flushCounts() {
	for w.err == nil && w.pos >= (w.counts.first+1)*blockCovers {
		at := w.align()
		w.counts.add(at, at+ClusterBytes)
		w.writeBlock(at)
	}
}

// writeBlock writes the first open block, whose place is counted already.
func (w *Writer) writeBlock(at int64) {
	c := &w.counts
	b := make([]byte, 0, ClusterBytes)
	for _, n := range c.open[0] {
		b = binary.BigEndian.AppendUint16(b, n)
	}
	w.write(b)
	c.blocks = append(c.blocks, uint64(at))
	c.open, c.first = c.open[1:], c.first+1
}

// writeCounts writes the remaining blocks and the table of all, which count
// themselves, at the file's end. It returns where the table is and how many
// clusters it has.
func (w *Writer) writeCounts() (table, clusters int64) {
	at := w.align()
	var blocks int64
	for end, before := at, int64(-1); end != before; {
		before = end
		all := (end-1)/blockCovers + 1
		blocks = all - w.counts.first
		clusters = (all*8-1)/ClusterBytes + 1
		end = at + (blocks+clusters)*ClusterBytes
	}
	w.counts.add(at, at+(blocks+clusters)*ClusterBytes)
	for range blocks {
		w.writeBlock(w.pos)
	}
	table = w.pos
	w.writeEntries(w.counts.blocks)
	w.align()
	return table, clusters
}
