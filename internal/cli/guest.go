package cli

import (
	"context"
	"errors"
	"time"

	"github.com/spf13/cobra"

	"cowl/internal/errs"
	"cowl/internal/guestagent"
	"cowl/internal/quiet"
)

// newGuest is the family of commands that ask virtual machines to hold still.
func newGuest(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "guest COMMAND SOCKET...", Short: "Freeze the file systems of virtual machines, and let them go on", GroupID: groupOwn,
		Long: `Ask the guest agent (qemu-guest-agent) of a virtual machine whose disk is a volume to
freeze its file systems: they are then whole on the disk, with nothing left to replay.
As hooks, these commands do so while a backup's snapshots are taken. The SOCKET is
that of the machine's serial port org.qemu.guest_agent.0:

  -device virtio-serial -device virtserialport,chardev=qga,name=org.qemu.guest_agent.0
  -chardev socket,id=qga,path=SOCKET,server=on,wait=off

Of a machine that libvirt runs the socket is libvirt's: virsh domfsfreeze and
virsh domfsthaw are the hooks there.`,
		Example: `  cowl backup vg/vm1 --to /backups --before-snapshot 'cowl guest freeze /run/vm1.qga' \
       --after-snapshot 'cowl guest thaw /run/vm1.qga'
  cowl guest status /run/vm1.qga`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return noSyntax(cmd)
		},
	}
	for _, sub := range []*cobra.Command{newGuestFreeze(a), newGuestThaw(a), newGuestStatus(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	cmd.Flags().SortFlags = false
	return cmd
}

// freezeTime is how long a guest may take to write back what is dirty. It is less
// than a hook has, so that what is frozen can be let go.
const freezeTime = quiet.DefaultHookLimit - 3*guestagent.SyncTime

// thawTime bounds how long is waited for an agent that is yet busy with freezing.
const thawTime = 30 * time.Second

func newGuestFreeze(a *app) *cobra.Command {
	limit := durationOption()
	cmd := &cobra.Command{
		Use: "freeze SOCKET... [OPTION]...", Short: "Freeze the file systems of virtual machines",
		Long: `Freeze all file systems of virtual machines. If one cannot be frozen, or not in time,
all go on, and the exit code is 5. Programs in the machine that write wait until
cowl guest thaw: nothing else lets them go on.`,
		Example: `  cowl guest freeze /run/vm1.qga`,
		Args:    atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if !limit.given {
				limit.value = freezeTime
			}
			ctx, cancel := context.WithTimeout(cmd.Context(), limit.value)
			defer cancel()
			err := a.freezeGuests(ctx, args)
			if err != nil {
				ctx, cancel := context.WithTimeout(context.WithoutCancel(cmd.Context()), thawTime)
				defer cancel()
				for _, socket := range args {
					_, _ = thawGuest(ctx, socket) // the first error is what matters
				}
			}
			return err
		},
	}
	flagOf(cmd.Flags(), &limit, "timeout", "", "how long all of them may take (45s)")
	return cmd
}

func (a *app) freezeGuests(ctx context.Context, sockets []string) error {
	for _, socket := range sockets {
		n, err := withGuest(ctx, socket, (*guestagent.Agent).Freeze)
		if err != nil {
			return err
		}
		if n == 0 {
			return errs.E(errs.Other, "guest agent %s: no file system was frozen", socket)
		}
		a.say("%s: %d file system(s) frozen.", socket, n)
	}
	return nil
}

// withGuest asks an agent for one thing.
func withGuest[T any](ctx context.Context, socket string, ask func(*guestagent.Agent, context.Context) (T, error)) (answer T, err error) {
	g, err := guestagent.Dial(ctx, socket)
	if err != nil {
		return answer, err
	}
	answer, err = ask(g, ctx)
	return answer, errors.Join(err, g.Close())
}

// retryGuest is how long is waited before an agent that does not answer is asked
// again.
const retryGuest = time.Second

// thawGuest also waits for an agent that is freezing, or that another client has
// not left yet.
func thawGuest(ctx context.Context, socket string) (n int, err error) {
	for {
		n, err = withGuest(ctx, socket, (*guestagent.Agent).Thaw)
		if !errs.Is(err, errs.Busy) {
			return n, err
		}
		select {
		case <-ctx.Done():
			return n, err
		case <-time.After(retryGuest):
		}
	}
}

func newGuestThaw(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "thaw SOCKET...", Short: "Let the file systems of virtual machines go on",
		Long: `Let all file systems of virtual machines go on. As the hook after a snapshot that
was taken (COWL_STAGE and COWL_RESULT say so) it fails if one was not frozen any more:
the snapshot may then show it in use.`,
		Example: `  cowl guest thaw /run/vm1.qga`,
		Args:    atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), thawTime)
			defer cancel()
			var all error
			for _, socket := range args {
				n, err := thawGuest(ctx, socket)
				if err == nil && n == 0 && a.afterSnapshot() {
					err = errs.E(errs.Conflict, "guest agent %s: its file systems went on before the snapshots were taken", socket)
				}
				if err == nil {
					a.say("%s: %d file system(s) go on.", socket, n)
				}
				all = errors.Join(all, err)
			}
			return all
		},
	}
}

// afterSnapshot reports whether this is run by a backup that has its snapshots.
func (a *app) afterSnapshot() bool {
	return a.Getenv("COWL_STAGE") == string(quiet.AfterSnapshot) && a.Getenv("COWL_RESULT") == "ok"
}

func newGuestStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use: "status SOCKET...", Short: "Say whether virtual machines are frozen",
		Long:    "Say of virtual machines whether their file systems are frozen.",
		Example: `  cowl guest status /run/vm1.qga`,
		Args:    atLeast(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			var all error
			for _, socket := range args {
				frozen, err := withGuest(cmd.Context(), socket, (*guestagent.Agent).Frozen)
				if err == nil {
					a.say("%s: %s", socket, map[bool]string{true: "frozen", false: "not frozen"}[frozen])
				}
				all = errors.Join(all, err)
			}
			return all
		},
	}
}
