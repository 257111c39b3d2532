package repo

import (
	"bytes"
	"context"
	"math/rand/v2"
	"testing"
	"time"

	"cowl/internal/backup/repo/localstore"
	"cowl/internal/block"
	"cowl/internal/block/mem"
)

const (
	mib      = 1 << 20
	password = "correct horse"
)

var ctx = context.Background()

// quick makes repositories whose passwords are cheaper to guess, and to use.
var quick = Options{KDF: PBKDF2}

// made makes a repository in a directory, and opens it.
func made(t testing.TB, dir string) *Repo {
	t.Helper()
	if err := Init(ctx, local(t, dir, true), password, quick); err != nil {
		t.Fatal(err)
	}
	return opened(t, dir)
}

func local(t testing.TB, dir string, create bool) Store {
	t.Helper()
	st, err := localstore.New(dir, create)
	if err != nil {
		t.Fatal(err)
	}
	return Store{Storage: st}
}

func opened(t testing.TB, dir string) *Repo {
	t.Helper()
	r, err := Open(ctx, local(t, dir, false), password, Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close(ctx) })
	return r
}

// record is what package backup would say.
func record() *Record {
	return &Record{Tool: "test", Started: time.Now(), Source: Origin{VG: "vg", LV: "lv", LVUUID: "lv-uuid", VGUUID: "vg-uuid"},
		Snapshot: Snapshot{LV: "s", LVUUID: "snapshot-uuid", Time: time.Now()}, Image: ImageInfo{File: "vg-lv.raw"}}
}

// stored backs a source up.
func stored(t testing.TB, r *Repo, src Source, files ...File) *Backup {
	t.Helper()
	b, err := r.Store(ctx, src, record(), files, StoreOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func noise(seed byte, n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{seed}).Read(b)
	return b
}

// volume is a device with data here and there, most of it holes.
func volume(t testing.TB, size int64) block.Device {
	t.Helper()
	dev := mem.New(size)
	for i, off := range []int64{0, size / 5, size/2 + 511, size - 3000} {
		write(t, dev, nil, Layout{}, off, noise(byte(i), 3000))
	}
	return dev
}

// write changes a device, and says which segments it changed.
func write(t testing.TB, dev block.Device, changed *Set, l Layout, off int64, b []byte) {
	t.Helper()
	if _, err := dev.WriteAt(b, off); err != nil {
		t.Fatal(err)
	}
	if changed != nil {
		changed.AddRange(l, off, int64(len(b)))
	}
}

func bytesOf(t testing.TB, dev block.Device) []byte {
	t.Helper()
	b := make([]byte, dev.Size())
	if _, err := dev.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

// compare reads a backup and compares it with what it should be.
func compare(t testing.TB, r *Repo, b *Backup, want block.Device) {
	t.Helper()
	m, _, err := r.Image(ctx, b)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(bytesOf(t, m), bytesOf(t, want)) {
		t.Errorf("backup %s differs from what was backed up", b.ID)
	}
}
