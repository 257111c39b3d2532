package manager

import (
	"cmp"
	"context"
	"crypto/rand"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"time"

	"cowl/internal/errs"
	"cowl/internal/metastore"
	"cowl/internal/volume"
)

// HostOptions say where a Host looks and who acts. The zero value is this
// process on this machine, without daemons.
type HostOptions struct {
	// Devices are the only devices to look at (--devices). Without them it is
	// the list in $COWL_DEVICES, and without that the devices file.
	Devices []string
	// DevicesFile is the devices file to use instead of the default one
	// (--devicesfile, $COWL_DEVICES_FILE).
	DevicesFile string

	// Backend says who is to run groups.
	Backend Backend

	// RunDir is where daemons have their sockets; "" knows of no daemons.
	RunDir string
	// Dial reaches the daemon that serves a group from RunDir, and gives an
	// error of kind errs.NotFound if there is none.
	Dial func(ctx context.Context, runDir, group string) (Group, error)

	// StateDir is where the devices file and copies of the metadata go; "" is
	// cowl in $XDG_STATE_HOME, and LVM's own directories for root.
	StateDir string

	Getenv  func(string) string // nil: os.Getenv
	UID     *int                // nil: this process's; 0 is root
	Now     func() time.Time
	Random  io.Reader
	Command string // the command line, for the metadata's description
	Program string // "cowl version 1.0"
	Log     *slog.Logger

	// Wait is how long to wait for devices that another command holds; 0 is
	// a few seconds.
	Wait time.Duration

	// Root is put before /etc, /dev and /sys, for tests.
	Root string
}

// Host finds physical volumes and groups, and opens groups: through the daemon
// that owns one, or in this process. It keeps nothing open between calls. Its
// methods may be called in parallel.
type Host struct {
	o    HostOptions
	root bool
	host string // this machine's name
}

// defaultWait bounds how long another short command is waited for.
const defaultWait = 5 * time.Second

// NewHost returns a Host. Nothing is opened or read yet.
func NewHost(o HostOptions) *Host {
	if o.Getenv == nil {
		o.Getenv = os.Getenv
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Random == nil {
		o.Random = rand.Reader
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	o.Wait = cmp.Or(o.Wait, defaultWait)
	o.Program = cmp.Or(o.Program, "cowl")
	uid := os.Getuid()
	if o.UID != nil {
		uid = *o.UID
	}
	h := &Host{o: o, root: uid == 0}
	h.host, _ = os.Hostname()
	return h
}

// etcLVM is LVM's own configuration directory, which root's cowl shares.
func (h *Host) etcLVM() string { return h.o.Root + "/etc/lvm" }

// stateDir returns where a user's devices file and metadata copies are.
func (h *Host) stateDir() (string, error) {
	if h.o.StateDir != "" {
		return h.o.StateDir, nil
	}
	if dir := h.o.Getenv("XDG_STATE_HOME"); filepath.IsAbs(dir) {
		return filepath.Join(dir, "cowl"), nil
	}
	home := h.o.Getenv("HOME")
	if home == "" {
		var err error
		if home, err = os.UserHomeDir(); err != nil {
			return "", errs.WithHint(errs.E(errs.Usage, "no place for the devices file: %w", err),
				"Set XDG_STATE_HOME, or name the devices with --devices.")
		}
	}
	return filepath.Join(home, ".local", "state", "cowl"), nil
}

// storeOptions are for metadata that this process writes.
func (h *Host) storeOptions() metastore.Options {
	o := metastore.Options{Writer: func() metastore.Writer {
		return metastore.Writer{
			Command: h.o.Command, Program: h.o.Program, Host: h.host,
			Kernel: kernelVersion(h.host), Time: h.o.Now(),
		}
	}}
	dir := h.etcLVM()
	if !h.root || h.o.StateDir != "" {
		var err error
		if dir, err = h.stateDir(); err != nil {
			return o // whoever has no home keeps no copies
		}
	}
	o.BackupDir, o.ArchiveDir = filepath.Join(dir, "backup"), filepath.Join(dir, "archive")
	return o
}

// newID returns a fresh identifier.
func (h *Host) newID() volume.UUID {
	var b [32]byte
	if _, err := io.ReadFull(h.o.Random, b[:]); err != nil {
		panic("manager: no random numbers: " + err.Error()) // crypto/rand never fails
	}
	return volume.UUIDFrom(b)
}

func (h *Host) stamp() volume.Stamp {
	return volume.Stamp{NewID: h.newID, Time: h.o.Now().Unix(), Host: h.host}
}
