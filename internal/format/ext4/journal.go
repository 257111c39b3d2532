package ext4

import (
	"encoding/binary"
	"strings"

	"cowl/internal/errs"
)

var be = binary.BigEndian

const (
	// JournalSuperSize is how much of a journal's first block carries meaning,
	// bytes.
	JournalSuperSize = 1024

	journalMagic  = 0xc03b3998
	journalHeader = 12
	journalSumCRC = 4 // the type of checksum that csum_v2 and csum_v3 have
	offJournalSum = 0xfc
	offCommitSum  = 16
	revokeHeader  = 16
	blockTail     = 4 // the checksum at the end of descriptor and revoke blocks
	minFastLog    = 1024
	defaultFast   = 256
)

// JournalKind is what a block of the log is.
type JournalKind uint32

// The kinds of blocks.
const (
	JournalDescriptor JournalKind = 1 // lists the blocks that follow
	JournalCommit     JournalKind = 2 // ends a transaction
	JournalSuperV1    JournalKind = 3
	JournalSuperV2    JournalKind = 4
	JournalRevoke     JournalKind = 5 // lists blocks that must not be replayed
)

// Features of a journal.
const (
	JournalChecksumV1  Features = 0x1 // the one compatible feature
	JournalRevokes     Features = 0x1
	Journal64Bit       Features = 0x2
	JournalAsyncCommit Features = 0x4
	JournalCsumV2      Features = 0x8
	JournalCsumV3      Features = 0x10
	JournalFastCommit  Features = 0x20
	journalKnown                = JournalRevokes | Journal64Bit | JournalAsyncCommit | JournalCsumV2 | JournalCsumV3 | JournalFastCommit
)

var journalNames = map[int]string{0: "revoke", 1: "64bit", 2: "async_commit", 3: "csum_v2", 4: "csum_v3", 5: "fast_commit"}

// Journal is a journal's superblock. Numbers of its blocks count from 0, which
// is the superblock itself.
type Journal struct {
	Blocks   uint32 // of the log, this one and those for fast commits included
	First    uint32 // the log's first
	Sequence uint32 // of the first transaction in the log
	Start    uint32 // where that is; 0: there is nothing to replay
	Compat   Features
	Incompat Features
	Fast     uint32 // how many of the last blocks are for fast commits

	blockSize int
	seed      uint32
}

// DecodeJournal decodes the first block of the journal of a file system with
// blocks of the given size, in bytes.
func DecodeJournal(b []byte, blockSize int) (*Journal, error) {
	if len(b) < JournalSuperSize || be.Uint32(b) != journalMagic {
		return nil, corrupt("journal: no superblock")
	}
	kind := JournalKind(be.Uint32(b[4:]))
	if kind != JournalSuperV1 && kind != JournalSuperV2 {
		return nil, corrupt("journal: superblock of type %d", kind)
	}
	j := &Journal{Blocks: be.Uint32(b[0x10:]), First: be.Uint32(b[0x14:]), Sequence: be.Uint32(b[0x18:]), Start: be.Uint32(b[0x1c:]), blockSize: blockSize}
	if got := be.Uint32(b[0xc:]); got != uint32(blockSize) {
		return nil, corrupt("journal: blocks of %d bytes in a file system of %d", got, blockSize)
	}
	if kind == JournalSuperV2 {
		if err := j.decodeV2(b); err != nil {
			return nil, err
		}
	}
	return j, j.validate()
}

func (j *Journal) decodeV2(b []byte) error {
	j.Compat, j.Incompat = Features(be.Uint32(b[0x24:])), Features(be.Uint32(b[0x28:]))
	j.seed = CRC32C(fresh, b[0x30:0x40])
	if unknown := j.Incompat &^ journalKnown; unknown != 0 {
		return errs.E(errs.Unsupported, "the journal has features that cowl does not read: %s", strings.Join(setNames(unknown, 'I', journalNames), ", "))
	}
	if j.Incompat&JournalFastCommit != 0 {
		n := be.Uint32(b[0x54:])
		if n == 0 {
			n = defaultFast
		}
		if j.Blocks >= n && j.Blocks-n >= minFastLog {
			j.Fast = n
		}
	}
	if !j.summed() {
		return nil
	}
	if j.Incompat&JournalCsumV2 != 0 && j.Incompat&JournalCsumV3 != 0 {
		return corrupt("journal: checksums of two versions")
	}
	if b[0x50] != journalSumCRC {
		return errs.E(errs.Unsupported, "journal: checksums of type %d, cowl knows type %d", b[0x50], journalSumCRC)
	}
	if want, got := crcZeroed(fresh, b[:JournalSuperSize], offJournalSum, 4), be.Uint32(b[offJournalSum:]); want != got {
		return corrupt("journal: bad checksum of its superblock (want %#08x, got %#08x)", want, got)
	}
	return nil
}

func (j *Journal) validate() error {
	switch {
	case j.First == 0 || j.First >= j.End():
		return corrupt("journal: the log is from block %d to %d", j.First, j.End())
	case j.Start != 0 && (j.Start < j.First || j.Start >= j.End()):
		return corrupt("journal: begins at block %d of a log from block %d to %d", j.Start, j.First, j.End())
	}
	return nil
}

// summed tells whether every block of the log carries a checksum.
func (j *Journal) summed() bool { return j.Incompat&(JournalCsumV2|JournalCsumV3) != 0 }

// End is the block behind the log proper, where the log goes on at First.
// From there to Blocks are those for fast commits.
func (j *Journal) End() uint32 { return j.Blocks - j.Fast }

// Wrap returns the log's block for a number that may be past its end by less
// than the log's length.
func (j *Journal) Wrap(block uint32) uint32 {
	if block >= j.End() {
		block -= j.End() - j.First
	}
	return block
}

// Header returns what a block of the log is and of which transaction; ok is
// false for blocks that are not part of the log's frame.
func (j *Journal) Header(b []byte) (kind JournalKind, sequence uint32, ok bool) {
	if len(b) != j.blockSize || be.Uint32(b) != journalMagic {
		return 0, 0, false
	}
	return JournalKind(be.Uint32(b[4:])), be.Uint32(b[8:]), true
}

// CheckTail tells whether a descriptor or revoke block has the checksum that
// it should have.
func (j *Journal) CheckTail(b []byte) bool {
	if !j.summed() {
		return true
	}
	at := len(b) - blockTail
	return crcZeroed(j.seed, b, at, 4) == be.Uint32(b[at:])
}

// body is what of a descriptor or revoke block lies before its checksum.
func (j *Journal) body(b []byte) []byte {
	if j.summed() {
		return b[:len(b)-blockTail]
	}
	return b
}

// JournalTag says where a block that follows a descriptor belongs.
type JournalTag struct {
	Block   uint64
	Escaped bool   // it began with the journal's magic number, which is cut out
	sum     uint32 // of the block as it stands in the log
}

// Flags of tags.
const (
	tagEscaped  = 1
	tagSameUUID = 2
	tagLast     = 8
)

// Tags decodes a descriptor block. There is one tag for each of the blocks
// that follow it in the log, in order.
func (j *Journal) Tags(b []byte) []JournalTag {
	size := j.tagSize()
	var tags []JournalTag
	for rest := j.body(b)[journalHeader:]; len(rest) >= size; {
		t, flags := j.tag(rest)
		tags = append(tags, t)
		rest = rest[size:]
		if flags&tagSameUUID == 0 {
			rest = rest[min(16, len(rest)):]
		}
		if flags&tagLast != 0 {
			break
		}
	}
	return tags
}

// tagSize is the size of a tag in bytes. With csum_v2 it is two more than its
// fields take, because the kernel once counted the checksum twice.
func (j *Journal) tagSize() int {
	if j.Incompat&JournalCsumV3 != 0 {
		return 16
	}
	size := 8
	if j.Incompat&Journal64Bit != 0 {
		size += 4
	}
	if j.Incompat&JournalCsumV2 != 0 {
		size += 2
	}
	return size
}

func (j *Journal) tag(b []byte) (t JournalTag, flags uint32) {
	t.Block = uint64(be.Uint32(b))
	if j.Incompat&JournalCsumV3 != 0 {
		flags, t.sum = be.Uint32(b[4:]), be.Uint32(b[12:])
	} else {
		t.sum, flags = uint32(be.Uint16(b[4:])), uint32(be.Uint16(b[6:]))
	}
	if j.Incompat&Journal64Bit != 0 {
		t.Block |= uint64(be.Uint32(b[8:])) << 32
	}
	t.Escaped = flags&tagEscaped != 0
	return t, flags
}

// CheckData tells whether a block of the log is the one that the tag was
// written for.
func (j *Journal) CheckData(t JournalTag, sequence uint32, data []byte) bool {
	if !j.summed() {
		return true
	}
	var seq [4]byte
	be.PutUint32(seq[:], sequence)
	sum := CRC32C(CRC32C(j.seed, seq[:]), data)
	if j.Incompat&JournalCsumV3 == 0 {
		sum &= 0xffff
	}
	return sum == t.sum
}

// Unescape puts back what was cut out of an escaped block.
func Unescape(data []byte) { be.PutUint32(data, journalMagic) }

// Revoked decodes a revoke block: copies of these blocks in this and earlier
// transactions are not to be replayed.
func (j *Journal) Revoked(b []byte) ([]uint64, error) {
	size := 4
	if j.Incompat&Journal64Bit != 0 {
		size = 8
	}
	used := int(be.Uint32(b[journalHeader:]))
	if used < revokeHeader || used > len(j.body(b)) {
		return nil, corrupt("journal: revoke block with %d bytes in use of %d", used, len(b))
	}
	var blocks []uint64
	for rest := b[revokeHeader:used]; len(rest) >= size; rest = rest[size:] {
		if size == 8 {
			blocks = append(blocks, be.Uint64(rest))
		} else {
			blocks = append(blocks, uint64(be.Uint32(rest)))
		}
	}
	return blocks, nil
}

// Commit is what ends a transaction.
type Commit struct {
	Time int64 // seconds
	// Sum is the CRC32BE of the transaction's other blocks in journals with
	// JournalChecksumV1; HasSum says that one was made.
	Sum    uint32
	HasSum bool
}

// Commit decodes a commit block and tells whether its own checksum is right.
func (j *Journal) Commit(b []byte) (c Commit, ok bool) {
	c.Time = int64(be.Uint64(b[0x30:]))
	c.Sum = be.Uint32(b[offCommitSum:])
	c.HasSum = b[0xc] == 1 && b[0xd] == 4
	if !j.summed() {
		return c, true
	}
	return c, crcZeroed(j.seed, b, offCommitSum, 4) == c.Sum
}
