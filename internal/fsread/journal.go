package fsread

import (
	"context"
	"fmt"
	"slices"

	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// replayJournal finds out which blocks the journal has newer copies of. The
// image is not changed: what is read of these blocks from now on is read from
// the journal.
//
// The log is read once, from its beginning to the first block that does not
// continue it. A transaction counts when its commit block is there: its
// copies take the place of earlier ones, and its revocations cancel copies of
// its own and of earlier transactions. Everything else is as in the kernel's
// recovery: which checksums end the log (stale blocks of an earlier round
// have them wrong) and which make it unusable.
func (f *FS) replayJournal(ctx context.Context) error {
	r, err := f.openLog(ctx)
	if err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if r.j.Start == 0 {
		return nil
	}
	if err := r.scan(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	if err := r.checkFast(); err != nil {
		return err
	}
	f.im.blocks = slices.Sorted(func(yield func(uint64) bool) {
		for number := range r.copies {
			if !yield(number) {
				return
			}
		}
	})
	f.im.copies = map[uint64]logged{}
	for number, c := range r.copies {
		f.im.copies[number] = c.logged
	}
	if err := r.verify(); err != nil {
		return fmt.Errorf("journal: %w", err)
	}
	f.replay.Blocks = len(f.im.blocks)
	// The superblock is journaled as well, and blocks that were read on the way
	// may be old.
	f.nodes, f.windows = newCache(f.nodes.limit), newCache(f.windows.limit)
	return f.readSuperblock()
}

// logReader reads a journal's log.
type logReader struct {
	ctx    context.Context
	fs     *FS
	j      *ext4.Journal
	m      mapper
	copies map[uint64]copied

	at      uint32 // the next block of the log
	read    uint32 // blocks read so far
	seq     uint32 // of the transaction at hand
	pending []copied
	revoked []uint64
	doubt   bool   // a checksum was wrong in the transaction at hand
	last    int64  // when the last transaction was committed
	sum     uint32 // of the transaction's blocks, with JournalChecksumV1
}

// copied is a block in the log with what it takes to check it.
type copied struct {
	logged
	tag ext4.JournalTag
	seq uint32
}

// openLog finds the journal and reads its superblock.
func (f *FS) openLog(ctx context.Context) (*logReader, error) {
	if f.sb.JournalDevice != 0 || f.sb.JournalInode == 0 {
		return nil, errs.E(errs.Unsupported, "it has to be replayed, and is on another device")
	}
	n, err := f.Inode(f.sb.JournalInode)
	if err != nil {
		return nil, err
	}
	if n.Mode.Type() != ext4.TypeFile || n.Flags&(ext4.FlagInline|ext4.FlagEncrypt) != 0 {
		return nil, errs.E(errs.Corrupt, "inode %d holds none", n.Ino)
	}
	r := &logReader{ctx: ctx, fs: f, m: f.mapper(n), copies: map[uint64]copied{}}
	b, _, err := r.block(0)
	if err != nil {
		return nil, err
	}
	if r.j, err = ext4.DecodeJournal(b, f.sb.BlockSize); err != nil {
		return nil, err
	}
	if size := uint64(n.Size) / uint64(f.sb.BlockSize); uint64(r.j.Blocks) > min(size, f.sb.Blocks) {
		return nil, errs.E(errs.Corrupt, "it has %d blocks, its inode only %d", r.j.Blocks, size)
	}
	return r, nil
}

// block reads a block of the journal, and says where it is on the device.
func (r *logReader) block(number uint32) (b []byte, device uint64, err error) {
	s, err := r.m.at(uint64(number))
	if err != nil {
		return nil, 0, err
	}
	if s.kind != Data {
		return nil, 0, errs.E(errs.Corrupt, "block %d is a hole", number)
	}
	device = s.start + uint64(number) - s.block
	b = make([]byte, r.fs.sb.BlockSize)
	return b, device, r.fs.im.read(b, int64(device)*r.fs.im.blockSize)
}

// advance moves on by one block. A log that goes round without an end is
// damaged.
func (r *logReader) advance() error {
	if r.ctx.Err() != nil {
		return context.Cause(r.ctx)
	}
	if r.read++; r.read > r.j.End() {
		return errs.E(errs.Corrupt, "the log has no end")
	}
	r.at = r.j.Wrap(r.at + 1)
	return nil
}

// scan reads the log.
func (r *logReader) scan() error {
	r.at, r.seq, r.sum = r.j.Start, r.j.Sequence, ^uint32(0)
	for {
		at := r.at
		b, _, err := r.block(at)
		if err != nil {
			return err
		}
		kind, seq, ok := r.j.Header(b)
		if !ok || seq != r.seq {
			return nil
		}
		if err := r.advance(); err != nil {
			return err
		}
		more := true
		switch kind {
		case ext4.JournalDescriptor:
			err = r.descriptor(b)
		case ext4.JournalRevoke:
			err = r.revocation(b)
		case ext4.JournalCommit:
			more, err = r.commit(b)
		default:
			return nil
		}
		if err != nil {
			return fmt.Errorf("block %d: %w", at, err)
		}
		if !more {
			return nil
		}
	}
}

// descriptor notes the blocks that follow a descriptor.
func (r *logReader) descriptor(b []byte) error {
	r.doubt = r.doubt || !r.j.CheckTail(b)
	v1 := r.j.Compat&ext4.JournalChecksumV1 != 0
	if v1 {
		r.sum = ext4.CRC32BE(r.sum, b)
	}
	for _, tag := range r.j.Tags(b) {
		c := copied{tag: tag, seq: r.seq, logged: logged{escaped: tag.Escaped}}
		data, device, err := r.data(v1)
		if err != nil {
			return err
		}
		c.at = device
		r.sum = ext4.CRC32BE(r.sum, data)
		r.pending = append(r.pending, c)
		if err := r.advance(); err != nil {
			return err
		}
	}
	return nil
}

// data finds the block at hand, and reads it if its content matters.
func (r *logReader) data(content bool) ([]byte, uint64, error) {
	if content {
		return r.block(r.at)
	}
	s, err := r.m.at(uint64(r.at))
	if err == nil && s.kind != Data {
		err = errs.E(errs.Corrupt, "block %d is a hole", r.at)
	}
	return nil, s.start + uint64(r.at) - s.block, err
}

// revocation notes the blocks that must not be replayed.
func (r *logReader) revocation(b []byte) error {
	if !r.j.CheckTail(b) {
		r.doubt = true
		return nil
	}
	blocks, err := r.j.Revoked(b)
	r.revoked = append(r.revoked, blocks...)
	return err
}

// commit ends a transaction. Wrong checksums in one that is older than the
// last are the remains of an earlier round, and so the log's end; others are
// damage.
func (r *logReader) commit(b []byte) (more bool, err error) {
	c, good := r.j.Commit(b)
	if r.j.Compat&ext4.JournalChecksumV1 != 0 && (c.HasSum || c.Sum != 0) && c.Sum != r.sum {
		good = false
	}
	switch {
	case r.doubt || !good:
		if c.Time < r.last || !r.doubt && r.j.Incompat&ext4.JournalAsyncCommit != 0 {
			return false, nil
		}
		return false, errs.E(errs.Corrupt, "bad checksum in transaction %d", r.seq)
	default:
		r.apply()
	}
	r.last = c.Time
	r.seq++
	return true, nil
}

// apply makes the transaction at hand count.
func (r *logReader) apply() {
	for _, c := range r.pending {
		r.copies[c.tag.Block] = c
	}
	for _, number := range r.revoked {
		delete(r.copies, number)
	}
	r.pending, r.revoked = r.pending[:0], r.revoked[:0]
	r.sum = ^uint32(0)
	r.fs.replay.Transactions++
}

// verify compares the copies that count with their checksums.
func (r *logReader) verify() error {
	for _, number := range r.fs.im.blocks {
		if r.ctx.Err() != nil {
			return context.Cause(r.ctx)
		}
		c := r.copies[number]
		if number >= r.fs.sb.Blocks {
			return errs.E(errs.Corrupt, "it has a copy of block %d, the file system has %d", number, r.fs.sb.Blocks)
		}
		data, err := r.fs.im.logged(logged{at: c.at}) // as it stands there
		if err != nil {
			return err
		}
		if !r.j.CheckData(c.tag, c.seq, data) {
			return errs.E(errs.Corrupt, "bad checksum of its copy of block %d, in transaction %d", number, c.seq)
		}
	}
	return nil
}

// checkFast refuses journals with fast commits, which say what happened to
// files and not what became of blocks.
func (r *logReader) checkFast() error {
	scan := ext4.FastScan{Transaction: r.seq}
	for at := r.j.End() + 1; r.j.Fast > 0 && at < r.j.Blocks; at++ {
		b, _, err := r.block(at)
		if err != nil {
			return fmt.Errorf("journal: %w", err)
		}
		if !scan.Block(b) {
			break
		}
	}
	if scan.Found() {
		return errs.WithHint(errs.E(errs.Unsupported, "the journal has to be replayed, and ends in fast commits, which cowl does not replay (feature fast_commit)"),
			"Mount a copy once, or take the snapshot after a full commit (sync -f).")
	}
	return nil
}
