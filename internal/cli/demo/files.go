package demo

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// volumeBytes is the size of the demo's volume.
const volumeBytes = 64 << 20

// ledgerName is the ledger's path in the file system.
const ledgerName = "var/ledger.db"

// makeTree fills dir with files of all sizes, the same ones every time, and
// the ledger.
func makeTree(dir string) (files int, err error) {
	rng := rand.New(rand.NewPCG(2026, 7))
	put := func(name string, content []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		files++
		return os.WriteFile(path, content, 0o644)
	}
	for i := range 240 {
		size := 1 << rng.IntN(18)
		content := make([]byte, size+rng.IntN(size))
		for j := range content {
			content[j] = byte(rng.Uint32())
		}
		if err := put(fmt.Sprintf("home/user%d/project%d/file%03d", i%4, i%12, i), content); err != nil {
			return files, err
		}
	}
	if err := put("etc/motd", []byte("If you can read this, the restore worked.\n")); err != nil {
		return files, err
	}
	return files, put(ledgerName, ledgerContent())
}

// checksums returns the SHA-256 of each regular file below dir, but not of the
// ledger, which changes all the time and has a check of its own.
func checksums(dir string) (map[string]string, error) {
	sums := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || filepath.ToSlash(name) == ledgerName {
			return err
		}
		f, err := os.Open(path)
		if err != nil {
			return err
		}
		defer f.Close()
		h := sha256.New()
		_, err = io.Copy(h, f)
		sums[filepath.ToSlash(name)] = hex.EncodeToString(h.Sum(nil))
		return err
	})
	return sums, err
}

// compare says how the files differ from what they should be, "" for not.
func compare(want, got map[string]string) string {
	var wrong []string
	for name, sum := range want {
		if got[name] != sum {
			wrong = append(wrong, name)
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			wrong = append(wrong, name)
		}
	}
	if len(wrong) == 0 {
		return ""
	}
	slices.Sort(wrong)
	return fmt.Sprintf("%d of %d files differ, %s the first", len(wrong), len(want), wrong[0])
}

// filling is what the volume is filled with and judged by: a file system
// where e2fsprogs are installed, a pattern where they are not.
type filling interface {
	// make writes the image that goes onto the volume.
	make(ctx context.Context, s *shell, image string) error
	// sound checks the volume's content, the ledger apart, and says in words
	// what has been proved.
	sound(ctx context.Context, s *shell, image string) (string, error)
	// broken shows that the content is damaged; it is an error if it is not.
	broken(ctx context.Context, s *shell, image string) error
}

// extFiles is an ext4 with a tree of files.
type extFiles struct {
	dir  string // of the demo
	sums map[string]string
}

func (e *extFiles) make(ctx context.Context, s *shell, image string) error {
	tree := filepath.Join(e.dir, "tree")
	files, err := makeTree(tree)
	if err != nil {
		return err
	}
	if e.sums, err = checksums(tree); err != nil {
		return err
	}
	s.say("tree/ holds %d files; mke2fs puts them into an ext4 without mounting it", files)
	_, err = s.run(ctx, "mke2fs", "-q", "-t", "ext4", "-b", fmt.Sprint(ledgerBlock), "-d", "tree", image, fmt.Sprintf("%dM", volumeBytes>>20))
	return err
}

func (e *extFiles) sound(ctx context.Context, s *shell, image string) (string, error) {
	if err := e.fsck(ctx, s, image, true); err != nil {
		return "", err
	}
	out, err := os.MkdirTemp(e.dir, "read-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(out)
	// debugfs reads the files without mounting. What it cannot set on the
	// copies without root (owners) does not matter here.
	for _, top := range []string{"home", "etc", "var"} {
		if text, _, err := s.quiet(ctx, "debugfs", "-R", "rdump /"+top+" "+out, image); err != nil {
			return "", fmt.Errorf("debugfs: %w\n%s", err, text)
		}
	}
	got, err := checksums(out)
	if err != nil {
		return "", err
	}
	if wrong := compare(e.sums, got); wrong != "" {
		return "", fmt.Errorf("%s", wrong)
	}
	return fmt.Sprintf("e2fsck finds nothing to repair, and all %d files have the SHA-256 that they had", len(e.sums)), nil
}

func (e *extFiles) broken(ctx context.Context, s *shell, image string) error {
	return e.fsck(ctx, s, image, false)
}

// fsck runs e2fsck, which must find the file system clean, or must not.
func (e *extFiles) fsck(ctx context.Context, s *shell, image string, clean bool) error {
	s.typed("e2fsck", "-fn", image)
	text, code, err := s.quiet(ctx, "e2fsck", "-fn", image)
	if err != nil {
		return err
	}
	// What it says of its version and its passes is always the same.
	lines := slices.DeleteFunc(strings.Split(text, "\n"), func(l string) bool {
		return strings.TrimSpace(l) == "" || strings.HasPrefix(l, "e2fsck ") || strings.HasPrefix(l, "Pass ")
	})
	for _, line := range lines[:min(3, len(lines))] {
		fmt.Fprintln(s.out, "     "+line)
	}
	fmt.Fprintf(s.out, "     exit code %d\n", code)
	if clean != (code == 0) {
		return fmt.Errorf("e2fsck ended with exit code %d:\n%s", code, strings.TrimSpace(text))
	}
	return nil
}

// pattern stands in where there is no mke2fs: noise that follows from its
// offset, and the ledger in the middle.
type pattern struct {
	sum string
}

func (p *pattern) make(_ context.Context, s *shell, image string) error {
	s.say("fs.img is a pattern that follows from a number, and can be checked")
	b := make([]byte, volumeBytes)
	rng := rand.New(rand.NewPCG(2026, 8))
	for i := 0; i < len(b)/4; i++ { // the rest stays zero: a hole in every backup
		b[i] = byte(rng.Uint32())
	}
	copy(b[volumeBytes/8:], ledgerContent())
	p.sum = p.hash(b)
	return os.WriteFile(filepath.Join(s.dir, image), b, 0o644)
}

// hash is of everything but the ledger.
func (p *pattern) hash(b []byte) string {
	h := sha256.New()
	h.Write(b[:volumeBytes/8])
	h.Write(b[volumeBytes/8+ledgerBlocks*ledgerBlock:])
	return hex.EncodeToString(h.Sum(nil))
}

func (p *pattern) sound(_ context.Context, s *shell, image string) (string, error) {
	b, err := os.ReadFile(filepath.Join(s.dir, image))
	if err != nil {
		return "", err
	}
	if len(b) != volumeBytes || p.hash(b) != p.sum {
		return "", fmt.Errorf("the pattern is not what it was")
	}
	return "the pattern has the SHA-256 that it had", nil
}

func (p *pattern) broken(ctx context.Context, s *shell, image string) error {
	if _, err := p.sound(ctx, s, image); err == nil {
		return fmt.Errorf("the pattern is whole after it was damaged")
	}
	s.proved("the pattern is damaged")
	return nil
}

// chooseFilling looks what is installed.
func chooseFilling(dir string) (filling, []string) {
	missing := []string{}
	for _, program := range []string{"mke2fs", "e2fsck", "debugfs"} {
		if find(program) == "" {
			missing = append(missing, program)
		}
	}
	if len(missing) > 0 {
		return &pattern{}, missing
	}
	return &extFiles{dir: dir}, nil
}
