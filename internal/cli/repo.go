package cli

import (
	"errors"

	"github.com/spf13/cobra"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// newRepo is the family of commands about a repository as such.
func newRepo(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use: "repo COMMAND REPOSITORY", Short: "Make, look at and look after a repository of backups", GroupID: groupOwn,
		Long: `A repository keeps backups deduplicated, compressed and encrypted. It is one of
kopia's: the stock kopia lists, verifies and restores what is in it. Without the
password nobody can read it. Its name is one of

  repo:DIR                       a directory
  sftp:[USER@]HOST:DIR           one on another host, through ssh, whose
  sftp://[USER@]HOST[:PORT]/DIR  configuration and keys count ($COWL_SSH_COMMAND)
  s3:HOST/BUCKET[/PREFIX]        a bucket; s3:http://HOST:9000/BUCKET without TLS.
                                 $AWS_ACCESS_KEY_ID and $AWS_SECRET_ACCESS_KEY, or
                                 a profile of ~/.aws/credentials, open it

` + passwordHelp,
		Example: `  cowl repo init repo:/backups/cowl
  cowl repo init sftp:backup@nas:/srv/cowl
  cowl backup server1/root --to repo:/backups/cowl
  cowl repo status repo:/backups/cowl`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return noCommand(cmd, args[0])
			}
			return noSyntax(cmd)
		},
	}
	for _, sub := range []*cobra.Command{newRepoInit(a), newRepoStatus(a), newRepoMaintain(a), newRepoUnlock(a)} {
		sub.DisableFlagsInUseLine = true
		cmd.AddCommand(sub)
	}
	// help COMMAND shows it; a flag that looks like one is none.
	cmd.Flags().SortFlags = false
	return cmd
}

// repoArg reads an argument that must name a repository.
func repoArg(cmd *cobra.Command, arg string) (targets.Target, error) {
	t, backup, err := targets.Parse(arg)
	switch {
	case err != nil:
		return t, usageError(cmd, err)
	case backup != "":
		return t, usage(cmd, "%s is a backup: name the repository alone.", arg)
	case !t.IsRepository():
		return t, usageError(cmd, errs.WithHint(errs.E(errs.Usage, "%s is not a repository.", arg), targets.Names))
	}
	return t, nil
}

func newRepoInit(a *app) *cobra.Command {
	var o accessFlags
	kdf := option[repo.KDF]{kind: "scrypt|pbkdf2", parse: oneOf(map[string]repo.KDF{"scrypt": repo.Scrypt, "pbkdf2": repo.PBKDF2})}
	cmd := &cobra.Command{
		Use: "init REPOSITORY [OPTION]...", Short: "Make a repository",
		Long: `Make an empty repository. The directory is made, but not those above it: one
that is missing is most often a backup disk that is not mounted.

How the key comes from the password costs every command a moment, and everybody
who guesses passwords one for each guess: scrypt 0.2 s and 64 MiB of memory,
pbkdf2 less than half of that time and no memory, which is enough for a password
that was made by chance.

` + passwordHelp,
		Example: `  cowl repo init repo:/backups/cowl
  cowl repo init repo:/backups/cowl --password-file /root/backup.password`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := repoArg(cmd, args[0])
			if err != nil {
				return err
			}
			if a.test {
				a.say("Would make a repository in %s.", t)
				return nil
			}
			password, err := a.password(cmd.Context(), t, o, true)
			if err != nil {
				return err
			}
			st, err := t.Open(cmd.Context(), a.Getenv, true)
			if err != nil {
				return err
			}
			if err := repo.Init(cmd.Context(), st, password, repo.Options{KDF: kdf.value}); err != nil {
				return err
			}
			a.say("Repository %s made. Keep the password: without it the backups cannot be read.", t)
			return nil
		},
	}
	flagOf(cmd.Flags(), &kdf, "kdf", "", "how the key comes from the password (scrypt)")
	o.add(cmd.Flags())
	return cmd
}

// repoStatus is what cowl repo status shows.
type repoStatus struct {
	Repository string           `json:"repository"`
	ID         string           `json:"id"`
	Backups    int              `json:"backups"`
	Blobs      int              `json:"blobs"`
	Bytes      int64            `json:"bytes"`
	Locks      []*repo.LockInfo `json:"locks"`
}

func newRepoStatus(a *app) *cobra.Command {
	var o accessFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "status REPOSITORY [OPTION]...", Short: "Show what a repository takes, and who uses it",
		Long:    "Show how many backups a repository has, what they take, and the locks on it.\n\n" + passwordHelp,
		Example: `  cowl repo status repo:/backups/cowl`,
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := repoArg(cmd, args[0])
			if err != nil {
				return err
			}
			return a.withRepo(cmd.Context(), t, o, false, func(r *repo.Repo) error {
				all, err := r.List(cmd.Context())
				if err != nil {
					return err
				}
				s := repoStatus{Repository: t.String(), ID: r.ID(), Backups: len(all)}
				if s.Blobs, s.Bytes, err = r.Size(cmd.Context()); err != nil {
					return err
				}
				if s.Locks, err = r.Locks(cmd.Context()); err != nil {
					return err
				}
				if asJSON {
					return a.sayJSON(s)
				}
				a.say("%s: %d backups, %s in %d blobs, id %s.", t, s.Backups, sizeText(s.Bytes), s.Blobs, s.ID)
				for _, l := range s.Locks {
					a.say("Lock %s", lockText(l))
				}
				return nil
			})
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
}

func lockText(l *repo.LockInfo) string {
	text := l.ID + " (" + string(l.Mode) + "): " + l.String()
	if l.Stale != "" {
		text += "; stale: " + l.Stale
	}
	return text
}

func newRepoMaintain(a *app) *cobra.Command {
	var o accessFlags
	var asJSON bool
	cmd := &cobra.Command{
		Use: "maintain REPOSITORY [OPTION]...", Short: "Free what no backup refers to, and merge indexes",
		Long: `Free the space of what no backup refers to any more, and merge indexes. If nobody
else uses the repository that happens at once. Beside a running backup nothing
is touched that is younger than a day; run it again later for the rest.

Locks are cowl's: no other kopia may write to the repository meanwhile.

` + passwordHelp,
		Example: `  cowl repo maintain repo:/backups/cowl`,
		Args:    exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := repoArg(cmd, args[0])
			if err != nil {
				return err
			}
			return a.withRepo(cmd.Context(), t, o, false, func(r *repo.Repo) error {
				if a.test {
					a.say("Would look for what no backup in %s refers to.", t)
					return nil
				}
				m, err := r.Maintain(cmd.Context())
				if m == nil {
					return err
				}
				if asJSON {
					return errors.Join(a.sayJSON(m), err)
				}
				a.sayMaintenance(t, m)
				return err
			})
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&asJSON, "json", false, "print one JSON object instead of lines")
	return cmd
}

// sayMaintenance says what maintenance came to.
func (a *app) sayMaintenance(t targets.Target, m *repo.Maintenance) {
	for _, u := range m.Users {
		a.warn("%s is in use: %s; what is recent was left alone", t, u)
	}
	if freed := m.Before - m.After; freed > 0 {
		a.say("%s: %s freed, %s left.", t, sizeText(freed), sizeText(m.After))
		return
	}
	a.say("%s: nothing to free, %s in use.", t, sizeText(m.After))
}

func newRepoUnlock(a *app) *cobra.Command {
	var o accessFlags
	var all bool
	cmd := &cobra.Command{
		Use: "unlock REPOSITORY [OPTION]...", Short: "Clear locks of processes that are gone",
		Long: `Remove locks whose owners are gone: of processes of this host that have ended,
and those that were not renewed for half an hour. With --all every lock goes; a
backup that still runs will notice, and fail.

` + passwordHelp,
		Example: `  cowl repo unlock repo:/backups/cowl
  cowl repo unlock --all repo:/backups/cowl`,
		Args: exactly(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			t, err := repoArg(cmd, args[0])
			if err != nil {
				return err
			}
			return a.withRepo(cmd.Context(), t, o, false, func(r *repo.Repo) error {
				if a.test {
					return a.sayLocks(cmd, r, all)
				}
				removed, err := r.Unlock(cmd.Context(), all)
				for _, l := range removed {
					a.say("Removed lock %s", lockText(l))
				}
				if err == nil && len(removed) == 0 {
					a.say("No lock to remove.")
				}
				return err
			})
		},
	}
	o.add(cmd.Flags())
	cmd.Flags().BoolVar(&all, "all", false, "remove locks that are held as well")
	return cmd
}

// sayLocks says what unlock would do.
func (a *app) sayLocks(cmd *cobra.Command, r *repo.Repo, all bool) error {
	locks, err := r.Locks(cmd.Context())
	for _, l := range locks {
		if all || l.Stale != "" {
			a.say("Would remove lock %s", lockText(l))
		}
	}
	return err
}
