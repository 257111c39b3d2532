package fsread

import (
	"context"
	"fmt"

	"cowl/internal/block"
	"cowl/internal/errs"
	"cowl/internal/format/ext4"
)

// Options say how to read a file system. The zero Options are right for most.
type Options struct {
	// CacheBytes bounds what is kept in memory of its metadata; 0 is 16 MiB.
	CacheBytes int64
	// NoReplay leaves the journal alone: the files are shown as they were
	// before its last transactions, which may be no state that ever was. It is
	// for journals that are damaged.
	NoReplay bool
}

const (
	defaultCache = 16 << 20
	// windowBytes is how much of an inode table is read at once.
	windowBytes = 32 << 10
)

// FS is a file system.
type FS struct {
	sb      *ext4.Superblock
	im      *image
	replay  Replay
	nodes   *cache // blocks by number
	windows *cache // pieces of inode tables by their first block
	perWin  uint64 // blocks in a window
}

// Node is what the file system knows of a file, of whatever type.
type Node = ext4.Inode

// Info describes a file system.
type Info struct {
	Version  string   `json:"version"` // ext2, ext3 or ext4
	UUID     [16]byte `json:"-"`
	Label    string   `json:"label"`
	Features []string `json:"features"`
	Block    int      `json:"block_bytes"`
	Size     int64    `json:"size_bytes"`
	Inodes   uint32   `json:"inodes"`
	Replay   Replay   `json:"journal"`
}

// Replay is what was found in the journal.
type Replay struct {
	Transactions int `json:"transactions"`
	Blocks       int `json:"blocks"` // that are read from the journal
}

// Open begins to read the file system on a device, which must not change
// meanwhile and stays the caller's to close. The error is errs.NotFound where
// there is no ext2, ext3 or ext4, errs.Unsupported for features that cowl does
// not read, and errs.Corrupt for a superblock or journal that is damaged.
func Open(ctx context.Context, dev block.Device, o Options) (*FS, error) {
	f := &FS{im: &image{dev: dev}}
	if err := f.readSuperblock(); err != nil {
		return nil, err
	}
	budget := o.CacheBytes
	if budget <= 0 {
		budget = defaultCache
	}
	bs := int64(f.sb.BlockSize)
	f.im.blockSize = bs
	f.perWin = uint64(max(1, windowBytes/bs))
	f.nodes = newCache(int(budget / 2 / bs))
	f.windows = newCache(int(budget / 2 / (int64(f.perWin) * bs)))
	if f.sb.Incompat&ext4.IncompatRecover != 0 && f.sb.Compat&ext4.CompatHasJournal != 0 && !o.NoReplay {
		if err := f.replayJournal(ctx); err != nil {
			return nil, errs.WithHint(err, "The journal holds the last changes; e2fsck on a copy of the image may rescue more.")
		}
	}
	root, err := f.Inode(ext4.RootInode)
	if err != nil {
		return nil, fmt.Errorf("root directory: %w", err)
	}
	if root.Mode.Type() != ext4.TypeDir {
		return nil, errs.E(errs.Corrupt, "root directory: inode %d is none (mode %#o)", root.Ino, root.Mode)
	}
	return f, nil
}

// Detect tells whether a device bears the mark of an ext2, ext3 or ext4, which
// Open may still refuse.
func Detect(dev block.Device) (bool, error) {
	if dev.Size() < ext4.SuperblockOffset+ext4.SuperblockSize {
		return false, nil
	}
	b := make([]byte, ext4.SuperblockSize)
	_, err := dev.ReadAt(b, ext4.SuperblockOffset)
	return ext4.IsExt(b), err
}

// readSuperblock reads it through the journal, as far as that is known.
func (f *FS) readSuperblock() error {
	b := make([]byte, ext4.SuperblockSize)
	size := f.im.dev.Size()
	if size < ext4.SuperblockOffset+ext4.SuperblockSize {
		return errs.E(errs.NotFound, "no ext2, ext3 or ext4 here: %d bytes are too few", size)
	}
	if f.sb == nil {
		if _, err := f.im.dev.ReadAt(b, ext4.SuperblockOffset); err != nil {
			return err
		}
	} else if err := f.im.read(b, ext4.SuperblockOffset); err != nil {
		return err
	}
	sb, err := ext4.DecodeSuperblock(b)
	if err != nil {
		return err
	}
	if sb.Size() > size {
		return errs.E(errs.Corrupt, "the file system has %d bytes, the device only %d: it is cut off", sb.Size(), size)
	}
	f.sb = sb
	return nil
}

// Info describes the file system.
func (f *FS) Info() Info {
	sb := f.sb
	return Info{Version: sb.Version(), UUID: sb.UUID, Label: sb.Label, Features: sb.FeatureNames(), Block: sb.BlockSize,
		Size: sb.Size(), Inodes: sb.Inodes, Replay: f.replay}
}

// block returns a block of metadata, which nobody may change.
func (f *FS) block(number uint64) ([]byte, error) {
	if !f.sb.Has(number, 1) {
		return nil, errs.E(errs.Corrupt, "block %d, the file system has %d", number, f.sb.Blocks)
	}
	return f.nodes.get(number, func() ([]byte, error) {
		b := make([]byte, f.sb.BlockSize)
		return b, f.im.read(b, int64(number)*f.im.blockSize)
	})
}

// Inode returns an inode by its number.
func (f *FS) Inode(ino ext4.Ino) (*Node, error) {
	if ino == 0 || uint32(ino) > f.sb.Inodes {
		return nil, errs.E(errs.Corrupt, "inode %d, the file system has %d", ino, f.sb.Inodes)
	}
	g := uint32(ino-1) / f.sb.InodesPerGroup
	d, err := f.group(g)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	at := uint64(uint32(ino-1)%f.sb.InodesPerGroup) * uint64(f.sb.InodeSize)
	raw, err := f.tablePiece(d.InodeTable, at)
	if err != nil {
		return nil, fmt.Errorf("inode %d: %w", ino, err)
	}
	return f.sb.DecodeInode(ino, raw)
}

// group returns the descriptor of a block group.
func (f *FS) group(g uint32) (*ext4.Group, error) {
	number, off := f.sb.Location(g)
	b, err := f.block(number)
	if err != nil {
		return nil, fmt.Errorf("descriptor of group %d: %w", g, err)
	}
	return f.sb.DecodeGroup(g, b[off:off+f.sb.DescSize])
}

// tablePiece returns an inode's bytes, at the given byte of a table.
func (f *FS) tablePiece(table, at uint64) ([]byte, error) {
	bs := uint64(f.sb.BlockSize)
	window := at / bs / f.perWin * f.perWin
	last := (uint64(f.sb.InodesPerGroup)*uint64(f.sb.InodeSize) + bs - 1) / bs
	first, n := table+window, min(f.perWin, last-window)
	b, err := f.windows.get(first, func() ([]byte, error) {
		b := make([]byte, n*bs)
		return b, f.im.read(b, int64(first)*f.im.blockSize)
	})
	if err != nil {
		return nil, err
	}
	at -= window * bs
	return b[at : at+uint64(f.sb.InodeSize)], nil
}
