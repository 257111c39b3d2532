package demo

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cowl/internal/block"
	"cowl/internal/daemon"
)

func (s *story) makeGroup(ctx context.Context, n int) error {
	s.title(n, "Two files become a volume group with a volume")
	s.typed("cd", s.dir)
	s.typed(".", "./env")
	s.say("sets COWL_DEVICES to two files, and where sockets and copies of metadata go")
	for _, args := range [][]string{
		{"truncate", "-s", "128M", "disk1.img", "disk2.img"},
		{"cowl", "pvcreate", "disk1.img", "disk2.img"},
		{"cowl", "vgcreate", group, "disk1.img", "disk2.img"},
		{"cowl", "lvcreate", "-L", fmt.Sprintf("%dM", volumeBytes>>20), "-n", volume, group},
		{"cowl", "vgchange", "-ay", group},
		{"cowl", "vgs"},
	} {
		if _, err := s.run(ctx, args...); err != nil {
			return err
		}
	}
	var err error
	s.group, err = daemon.Connect(ctx, filepath.Join(s.dir, "run"), group)
	return err
}

func (s *story) fillVolume(ctx context.Context, n int) error {
	s.title(n, "Data goes onto the volume")
	if err := s.fill.make(ctx, s.shell, "fs.img"); err != nil {
		return err
	}
	image, err := os.Open(filepath.Join(s.dir, "fs.img"))
	if err != nil {
		return err
	}
	defer image.Close()
	if s.ledger, err = findLedger(image, volumeBytes); err != nil {
		return err
	}
	s.say("--force, because an image from elsewhere has no manifest to check it against")
	_, err = s.run(ctx, "cowl", "restore", "--force", "fs.img", group+"/"+volume)
	return err
}

func (s *story) startLoad(ctx context.Context, n int) error {
	s.title(n, "A program begins to write to the volume, and does not stop")
	s.say("over NBD, into the blocks of %s in place, as a database does;\nwrite number N says so in its block, and the program checks what it reads", ledgerName)
	if err := s.load(ctx, 0); err != nil {
		return err
	}
	return s.waitForWrites(ctx, 1000)
}

// load starts the writer behind the first n writes.
func (s *story) load(ctx context.Context, n uint64) error {
	dev, err := s.group.Open(ctx, volume, false)
	if err != nil {
		return err
	}
	s.writer = startWriter(dev, s.ledger, n)
	return nil
}

// waitForWrites waits until the writer has done so many more.
func (s *story) waitForWrites(ctx context.Context, more uint64) error {
	until := s.writer.acked.Load() + more
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for s.writer.acked.Load() < until {
		select {
		case <-tick.C:
		case err := <-s.writer.done:
			s.writer.done <- err
			return fmt.Errorf("the program that writes has ended: %w", err)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

func (s *story) takeSnapshot(ctx context.Context, n int) error {
	s.title(n, "A snapshot of the volume while it is written to")
	before := s.writer.acked.Load()
	if _, err := s.run(ctx, "cowl", "lvcreate", "-s", "-L", "32M", "-n", "monday", group+"/"+volume); err != nil {
		return err
	}
	after := s.writer.issued.Load()
	frozen, err := s.instant(ctx, "monday", before, after)
	if err != nil {
		return err
	}
	s.proved("monday holds exactly the first %s writes, not one more, not one less", count(frozen))
	if err := s.waitForWrites(ctx, 3000); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cowl", "lvs"); err != nil {
		return err
	}
	if again, err := s.instant(ctx, "monday", frozen, frozen); err != nil {
		return err
	} else if now := s.writer.acked.Load(); now > again {
		s.proved("the volume is at write %s by now, and monday still at %s", count(now), count(again))
	}
	return nil
}

// instant checks that a volume shows one instant, between two numbers of
// writes, and returns which.
func (s *story) instant(ctx context.Context, lv string, least, most uint64) (uint64, error) {
	dev, err := s.group.Open(ctx, lv, true)
	if err != nil {
		return 0, err
	}
	defer dev.Close()
	return s.instantOf(dev, lv, least, most)
}

func (s *story) instantOf(image io.ReaderAt, what string, least, most uint64) (uint64, error) {
	n, err := s.ledger.check(image)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", what, err)
	}
	if n < least || n > most {
		return 0, fmt.Errorf("%s is at write %d, but was taken between %d and %d", what, n, least, most)
	}
	return n, nil
}

func (s *story) makeBackup(ctx context.Context, n int) error {
	s.title(n, "A backup, while the writing goes on")
	if _, err := s.run(ctx, "mkdir", "backups"); err != nil {
		return err
	}
	before := s.writer.acked.Load()
	if _, err := s.run(ctx, "cowl", "backup", group+"/"+volume, "--to", "backups"); err != nil {
		return err
	}
	after := s.writer.issued.Load()
	images, err := filepath.Glob(filepath.Join(s.dir, "backups", "*.raw"))
	if err != nil || len(images) != 1 {
		return fmt.Errorf("one image is expected in backups, found %q", images)
	}
	s.backup = filepath.Join("backups", filepath.Base(images[0]))
	if _, err := s.run(ctx, "cowl", "verify", s.backup); err != nil {
		return err
	}
	image, err := os.Open(images[0])
	if err != nil {
		return err
	}
	defer image.Close()
	if s.atBackup, err = s.instantOf(image, "the backup", before, after); err != nil {
		return err
	}
	s.proved("the image shows one instant: exactly the first %s writes", count(s.atBackup))
	what, err := s.fill.sound(ctx, s.shell, s.backup)
	if err != nil {
		return err
	}
	s.proved("%s", what)
	_, err = s.run(ctx, "cowl", "lvremove", "-y", group+"/monday")
	return err
}

func (s *story) haveAccident(ctx context.Context, n int) error {
	s.title(n, "An accident")
	s.say("2 MiB of noise over the beginning of the volume, as a dd to the wrong place")
	if err := s.damage(ctx, 1); err != nil {
		return err
	}
	s.say("and a restore while the program still has the volume open?")
	if out, code, err := s.try(ctx, "cowl", "restore", s.backup, group+"/"+volume); err != nil {
		return err
	} else if code == 0 || !strings.Contains(out, "in use") {
		return fmt.Errorf("a restore over a volume in use was not refused")
	}
	if err := s.writer.stop(); err != nil {
		return fmt.Errorf("the program that writes: %w", err)
	}
	s.proved("refused; the program that writes is stopped now, after %s writes and %s checks of its own, all right",
		count(s.writer.acked.Load()), count(s.writer.checked.Load()))
	return s.brokenVolume(ctx)
}

// damage writes noise over the volume's beginning.
func (s *story) damage(ctx context.Context, seed uint64) error {
	dev, err := s.group.Open(ctx, volume, false)
	if err != nil {
		return err
	}
	b := make([]byte, 2<<20)
	rng := rand.New(rand.NewPCG(seed, 0))
	for i := range b {
		b[i] = byte(rng.Uint32())
	}
	_, err = dev.WriteAt(b, 0)
	return errors.Join(err, dev.Flush(), dev.Close())
}

func (s *story) brokenVolume(ctx context.Context) error {
	path, done, err := s.path(ctx)
	if err != nil {
		return err
	}
	defer done()
	return s.fill.broken(ctx, s.shell, path)
}

// soundVolume checks everything that the volume holds.
func (s *story) soundVolume(ctx context.Context) error {
	path, done, err := s.path(ctx)
	if err != nil {
		return err
	}
	defer done()
	what, err := s.fill.sound(ctx, s.shell, path)
	if err != nil {
		return err
	}
	s.proved("%s", what)
	if _, err := s.instant(ctx, volume, s.atBackup, s.atBackup); err != nil {
		return err
	}
	s.proved("the ledger is at write %s, as in the backup", count(s.atBackup))
	return nil
}

// path is where other programs find the volume's content: a file of FUSE's,
// or a copy where there is no FUSE.
func (s *story) path(ctx context.Context) (path string, done func(), err error) {
	st, err := s.group.Status(ctx)
	if err != nil {
		return "", nil, err
	}
	if file := st.LVs[volume].File; file != "" {
		if rel, err := filepath.Rel(s.dir, file); err == nil {
			file = rel
		}
		return file, func() {}, nil
	}
	s.say("there is no FUSE here: the volume is copied to now.img over NBD")
	dev, err := s.group.Open(ctx, volume, true)
	if err != nil {
		return "", nil, err
	}
	copied := filepath.Join(s.dir, "now.img")
	return "now.img", func() { os.Remove(copied) }, errors.Join(copyOut(dev, copied), dev.Close())
}

func copyOut(dev block.Device, path string) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	_, err = io.Copy(f, io.NewSectionReader(dev, 0, dev.Size()))
	return errors.Join(err, f.Close())
}

func (s *story) restore(ctx context.Context, n int) error {
	s.title(n, "The restore")
	if _, err := s.run(ctx, "cowl", "restore", s.backup, group+"/"+volume); err != nil {
		return err
	}
	return s.soundVolume(ctx)
}

func (s *story) rollBack(ctx context.Context, n int) error {
	s.title(n, "An upgrade that goes wrong, and is rolled back")
	if _, err := s.run(ctx, "cowl", "lvcreate", "-s", "-L", "32M", "-n", "before", group+"/"+volume); err != nil {
		return err
	}
	s.say("the \"upgrade\": the program writes again, and then noise hits the volume")
	if err := s.load(ctx, s.atBackup); err != nil {
		return err
	}
	err := s.waitForWrites(ctx, 2000)
	if err := errors.Join(err, s.writer.stop(), s.damage(ctx, 2)); err != nil {
		return err
	}
	if err := s.brokenVolume(ctx); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cowl", "lvs"); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cowl", "lvconvert", "--merge", group+"/before"); err != nil {
		return err
	}
	if err := s.merged(ctx); err != nil {
		return err
	}
	if _, err := s.run(ctx, "cowl", "lvs"); err != nil {
		return err
	}
	return s.soundVolume(ctx)
}

// merged waits until the snapshot is gone.
func (s *story) merged(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the merge has not ended after a minute"))
	defer cancel()
	for {
		st, err := s.group.Status(ctx)
		if err != nil {
			return err
		}
		if st.Group.LV("before") == nil {
			return nil
		}
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}
