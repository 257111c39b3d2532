package sftpstore

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"time"

	"github.com/pkg/sftp"

	"cowl/internal/errs"
)

// line is a connection, which is made when it is needed and again when it was
// lost.
type line struct {
	o Options

	mu     sync.Mutex
	now    *conn // nil if there is none; guarded by mu
	closed bool  // guarded by mu
}

// conn is a running ssh, and the client that talks to the other side of it.
type conn struct {
	*sftp.Client
	cmd   *exec.Cmd
	in    io.Closer // ssh's standard input
	ended chan struct{}
	err   error // ssh's end; after ended
	talk  tail
}

// use runs f with a connection. Where that is lost meanwhile, f is run again
// with a new one, a few times.
func (l *line) use(ctx context.Context, f func(*sftp.Client) error) error {
	for try := 0; ; try++ {
		c, err := l.get(ctx)
		fresh := err == nil
		if fresh {
			err = f(c.Client)
			if !isLost(err) {
				return err
			}
			l.drop(c)
			err = c.explain(l.o, err)
		}
		// Who cannot be reached at first will not be for having waited.
		if ctx.Err() != nil || try == len(pauses) || !fresh && try == 0 {
			return err
		}
		select {
		case <-time.After(pauses[try]):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// isLost tells whether an error is the connection's and not the request's.
func isLost(err error) bool {
	return errors.Is(err, sftp.ErrSSHFxConnectionLost) || errors.Is(err, sftp.ErrSSHFxNoConnection) ||
		errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.ErrClosedPipe)
}

// get returns the connection, and makes one if there is none.
func (l *line) get(ctx context.Context) (*conn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, errs.E(errs.Other, "the connection to %s is closed", l.o.at())
	}
	if l.now == nil {
		c, err := dial(ctx, l.o)
		if err != nil {
			return nil, err
		}
		l.now = c
	}
	return l.now, nil
}

// drop ends a connection that is of no use any more.
func (l *line) drop(c *conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now == c {
		l.now = nil
	}
	c.end()
}

func (l *line) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.now != nil {
		l.now.end()
	}
	l.now, l.closed = nil, true
}

// dial starts ssh. Its questions (a passphrase, a host that it does not know)
// it asks at the terminal itself, where there is one.
func dial(ctx context.Context, o Options) (*conn, error) {
	cmd := command(o)
	c := &conn{cmd: cmd, ended: make(chan struct{})}
	cmd.Stderr = &c.talk
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("ssh: %w", err)
	}
	c.in = in
	stop := context.AfterFunc(ctx, func() { cmd.Process.Kill() })
	// What ssh writes last is still to be read when it has ended, so the pipe is
	// read to its end before Wait closes it.
	read := &drained{r: out, done: make(chan struct{})}
	go func() {
		<-read.done
		c.err = cmd.Wait()
		close(c.ended)
	}()
	c.Client, err = sftp.NewClientPipe(read, in, sftp.UseConcurrentReads(true), sftp.UseConcurrentWrites(true))
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		cmd.Process.Kill()
		read.finish()
		<-c.ended
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, c.explain(o, err)
	}
	return c, nil
}

// command is what runs ssh. It must outlive the Ctrl-C that a terminal sends
// to everybody, since cowl still has to give back its lock then: the shell
// has it ignored, and ssh leaves what is ignored so.
func command(o Options) *exec.Cmd {
	if runtime.GOOS == "windows" {
		return exec.Command("ssh", o.arguments()...)
	}
	name := o.Command
	if name == "" {
		name = "ssh"
	}
	return exec.Command("/bin/sh", append([]string{"-c", "trap '' INT QUIT; exec " + name + ` "$@"`, "sh"}, o.arguments()...)...)
}

// endTime is how long ssh may take to end.
const endTime = 5 * time.Second

// end closes the connection, and waits for ssh.
func (c *conn) end() {
	c.Client.Close()
	c.in.Close()
	select {
	case <-c.ended:
	case <-time.After(endTime):
		_ = c.signal(os.Kill)
	}
}

// explain says why there is no connection, in ssh's words.
func (c *conn) explain(o Options, err error) error {
	select {
	case <-c.ended:
		if c.err != nil {
			err = c.err
		}
	case <-time.After(endTime):
	}
	if last := c.talk.last(); last != "" {
		err = errors.New(last)
	}
	user := ""
	if o.Port != 0 {
		user = fmt.Sprintf("-p %d ", o.Port)
	}
	return errs.WithHint(errs.E(errs.Other, "ssh to %s: %w", o.at(), err), "See whether this works: ssh %s%s", user, o.at())
}

// signal sends ssh a signal.
func (c *conn) signal(s os.Signal) error { return c.cmd.Process.Signal(s) }

// tail keeps the end of what ssh says.
type tail struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

const tailBytes = 4096

// Write implements io.Writer.
func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(0, len(t.text)-tailBytes):]
	return len(b), nil
}

// last returns the last line.
func (t *tail) last() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	lines := strings.Split(strings.TrimSpace(string(t.text)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}

// drained tells when a pipe has been read to its end.
type drained struct {
	r    io.Reader
	done chan struct{}
	once sync.Once
}

// Read implements io.Reader.
func (d *drained) Read(b []byte) (int, error) {
	n, err := d.r.Read(b)
	if err != nil {
		d.finish()
	}
	return n, err
}

func (d *drained) finish() { d.once.Do(func() { close(d.done) }) }
