// Package sftpstore keeps a repository's blobs in a directory of another host,
// over SFTP, in the layout of kopia's sftp storage, so that the stock kopia
// opens the same directory.
//
// It is not kopia's own driver because of what it promises: what was put was
// flushed by the server before it got its name (where the server can do that,
// as OpenSSH's can), and looking at a place changes nothing there. And the
// connection is the system's ssh's: its configuration, agent, jump hosts and
// known hosts are what people have set up, and cowl sees no key of theirs.
//
// What SFTP cannot do is flush a directory. A server that loses power right
// behind a backup may forget names; a later verification says so.
package sftpstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/kopia/kopia/repo/blob"
	"github.com/kopia/kopia/repo/blob/sharded"
	"github.com/pkg/sftp"

	"cowl/internal/errs"
)

// Options say where the directory is, and how to get there.
type Options struct {
	User string // "" leaves it to ssh
	Host string // as ssh knows it, an alias too
	Port int    // 0 leaves it to ssh
	Path string // absolute, or below the user's home directory
	// Command is what runs ssh, as the shell reads it; "" is ssh. To it are added
	// the options for port and user, the host, and what asks for SFTP.
	Command string
}

// store is a blob.Storage: kopia's sharding over remote files.
type store struct {
	sharded.Storage
	blob.DefaultProviderImplementation
	f *files
}

// formatFile is the file that makes a directory a repository.
const formatFile = "kopia.repository" + sharded.CompleteBlobSuffix

// New returns the storage in a directory that holds a repository, or, with
// create, in one that is to, and is made if only it is missing.
func New(ctx context.Context, o Options, create bool) (blob.Storage, error) {
	f := &files{line: line{o: o}}
	err := f.line.use(ctx, func(c *sftp.Client) error { return look(c, o.Path, create) })
	if err != nil {
		f.line.close()
		return nil, err
	}
	return &store{Storage: sharded.New(f, o.Path, sharded.Options{}, true), f: f}, nil
}

// look sees to it that a directory is what New is told.
func look(c *sftp.Client, dir string, create bool) error {
	if create {
		if err := c.Mkdir(dir); err == nil {
			return c.Chmod(dir, 0o700)
		}
	}
	st, err := c.Stat(dir)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return errs.WithHint(errs.E(errs.NotFound, "directory %s does not exist on that host", dir),
			"Make it there, or mount the disk that it should be on.")
	case err != nil:
		return fmt.Errorf("%s: %w", dir, err)
	case !st.IsDir():
		return errs.E(errs.Usage, "%s is not a directory", dir)
	case create:
		return nil
	}
	// Before anything is asked of kopia's sharding, which leaves a file of its
	// own wherever it looks.
	if _, err = c.Stat(path.Join(dir, formatFile)); errors.Is(err, os.ErrNotExist) {
		return errs.E(errs.NotFound, "there is no repository in %s", dir)
	}
	return err
}

// ConnectionInfo implements blob.Storage: how the stock kopia would connect. Its
// own package for that is not linked, since an SSH client comes with it.
func (s *store) ConnectionInfo() blob.ConnectionInfo {
	o := s.f.line.o
	return blob.ConnectionInfo{Type: "sftp", Config: map[string]any{
		"path": o.Path, "host": o.Host, "port": o.Port, "username": o.User, "externalSSH": true,
	}}
}

// DisplayName implements blob.Storage.
func (s *store) DisplayName() string { return "sftp:" + s.f.line.o.String() }

// Close implements blob.Storage.
func (s *store) Close(context.Context) error { s.f.line.close(); return nil }

// String names the directory as scp does.
func (o Options) String() string { return o.at() + ":" + o.Path }

func (o Options) at() string {
	if o.User == "" {
		return o.Host
	}
	return o.User + "@" + o.Host
}

// files is a sharded.Impl.
type files struct{ line line }

// partBytes is how much is read at once of a part of a blob.
const partBytes = 1 << 20

// GetBlobFromPath implements sharded.Impl.
func (f *files) GetBlobFromPath(ctx context.Context, _, name string, off, length int64, out blob.OutputBuffer) error {
	return f.line.use(ctx, func(c *sftp.Client) error {
		out.Reset()
		in, err := c.Open(name)
		if err != nil {
			return notFound(err)
		}
		defer in.Close()
		if length < 0 {
			_, err = in.WriteTo(out)
			return err
		}
		buf := make([]byte, min(length, partBytes))
		for done := int64(0); done < length; {
			n, err := in.ReadAt(buf[:min(length-done, partBytes)], off+done)
			if n == 0 && errors.Is(err, io.EOF) {
				return fmt.Errorf("%s ends before byte %d: %w", name, off+length, blob.ErrInvalidRange)
			}
			if err != nil && !errors.Is(err, io.EOF) {
				return err
			}
			if _, err := out.Write(buf[:n]); err != nil {
				return err
			}
			done += int64(n)
		}
		return nil
	})
}

// notFound says in kopia's word that a blob is not there.
func notFound(err error) error {
	if errors.Is(err, os.ErrNotExist) {
		return blob.ErrBlobNotFound
	}
	return err
}

// GetMetadataFromPath implements sharded.Impl.
func (f *files) GetMetadataFromPath(ctx context.Context, _, name string) (m blob.Metadata, err error) {
	err = f.line.use(ctx, func(c *sftp.Client) error {
		st, err := c.Stat(name)
		if err != nil {
			return notFound(err)
		}
		m = blob.Metadata{Length: st.Size(), Timestamp: st.ModTime()}
		return nil
	})
	return m, err
}

// PutBlobInPath implements sharded.Impl. The bytes are complete, and flushed
// where the server can, before they get the name.
func (f *files) PutBlobInPath(ctx context.Context, dir, name string, data blob.Bytes, opts blob.PutOptions) error {
	switch {
	case opts.HasRetentionOptions(), opts.DoNotRecreate, !opts.SetModTime.IsZero():
		return blob.ErrUnsupportedPutBlobOption
	}
	return f.line.use(ctx, func(c *sftp.Client) error {
		tmp := fmt.Sprintf("%s.tmp.%s", name, rand.Text())
		if err := f.write(c, dir, tmp, data); err != nil {
			_ = c.Remove(tmp)
			return err
		}
		if err := rename(c, tmp, name); err != nil {
			_ = c.Remove(tmp)
			return err
		}
		if opts.GetModTime != nil {
			st, err := c.Stat(name)
			if err != nil {
				return err
			}
			*opts.GetModTime = st.ModTime()
		}
		return nil
	})
}

// write writes a new file. Where its directory is missing it is made.
func (f *files) write(c *sftp.Client, dir, name string, data blob.Bytes) error {
	const flags = os.O_WRONLY | os.O_CREATE | os.O_EXCL
	out, err := c.OpenFile(name, flags)
	if errors.Is(err, os.ErrNotExist) {
		if err = f.makeDir(c, dir); err == nil {
			out, err = c.OpenFile(name, flags)
		}
	}
	if err != nil {
		return err
	}
	r := data.Reader()
	defer r.Close()
	_, err = out.ReadFromWithConcurrency(r, 0)
	if _, can := c.HasExtension("fsync@openssh.com"); err == nil && can {
		err = out.Sync()
	}
	return errors.Join(err, out.Close())
}

// makeDir makes a directory below the root, and those above it, but not the root.
func (f *files) makeDir(c *sftp.Client, dir string) error {
	if dir == path.Clean(f.line.o.Path) || dir == "." || dir == "/" {
		return errs.E(errs.NotFound, "directory %s is gone", f.line.o.Path)
	}
	err := c.Mkdir(dir)
	if errors.Is(err, os.ErrNotExist) {
		if err = f.makeDir(c, path.Dir(dir)); err == nil {
			err = c.Mkdir(dir)
		}
	}
	if err != nil {
		if st, statErr := c.Stat(dir); statErr == nil && st.IsDir() {
			return nil // somebody else was faster
		}
	}
	return err
}

// rename gives a file its name, if there was one of that name before too.
func rename(c *sftp.Client, from, to string) error {
	if _, can := c.HasExtension("posix-rename@openssh.com"); can {
		return c.PosixRename(from, to)
	}
	err := c.Rename(from, to)
	if err == nil {
		return nil
	}
	if removeErr := c.Remove(to); removeErr != nil {
		return err
	}
	return c.Rename(from, to)
}

// DeleteBlobInPath implements sharded.Impl. A blob that is not there is no
// error.
func (f *files) DeleteBlobInPath(ctx context.Context, _, name string) error {
	return f.line.use(ctx, func(c *sftp.Client) error {
		if err := c.Remove(name); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
		return nil
	})
}

// ReadDir implements sharded.Impl.
func (f *files) ReadDir(ctx context.Context, dir string) (infos []os.FileInfo, err error) {
	err = f.line.use(ctx, func(c *sftp.Client) (err error) {
		infos, err = c.ReadDirContext(ctx, dir)
		return err
	})
	return infos, err
}

// Validate checks names that come from a command line: ssh takes what begins
// with a dash for an option.
func (o Options) Validate() error {
	switch {
	case o.Host == "" || strings.HasPrefix(o.Host, "-") || strings.ContainsAny(o.Host, " \t\n/"):
		return errs.E(errs.Usage, "%q is no host", o.Host)
	case strings.HasPrefix(o.User, "-"):
		return errs.E(errs.Usage, "%q is no user", o.User)
	case o.Port < 0 || o.Port > 65535:
		return errs.E(errs.Usage, "%d is no port", o.Port)
	case o.Path == "":
		return errs.E(errs.Usage, "no directory is named")
	}
	return nil
}

// arguments are those of ssh.
func (o Options) arguments() []string {
	// Without being asked, ssh waits for hours for a host that is gone.
	args := []string{"-oServerAliveInterval=30", "-oServerAliveCountMax=4"}
	if o.Port != 0 {
		args = append(args, "-p", strconv.Itoa(o.Port))
	}
	if o.User != "" {
		args = append(args, "-l", o.User)
	}
	return append(args, "-s", "--", o.Host, "sftp")
}

// Times between tries where the connection was lost.
var pauses = []time.Duration{time.Second, 5 * time.Second, 15 * time.Second}
