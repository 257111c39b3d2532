package cli

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/spf13/pflag"

	"cowl/internal/backup/repo"
	"cowl/internal/backup/repo/targets"
	"cowl/internal/errs"
)

// accessFlags are the options of verbs that open a repository. The password
// itself is never one: command lines are seen by everybody and kept in
// histories.
type accessFlags struct {
	passwordFile, passwordCommand string
}

func (o *accessFlags) add(f *pflag.FlagSet) {
	f.StringVar(&o.passwordFile, "password-file", "", "read the repository's password from this `file` (also $COWL_PASSWORD_FILE)")
	f.StringVar(&o.passwordCommand, "password-command", "", "take it from what this `command` prints (also $COWL_PASSWORD_COMMAND)")
}

// passwordHelp stands in the help of verbs that have these options.
const passwordHelp = `The password of a repository is asked for, or comes from a file, from what a
command prints, or from $COWL_PASSWORD.`

// password returns the repository's password. Where it is asked for, again
// tells to ask twice.
func (a *app) password(ctx context.Context, t targets.Target, o accessFlags, again bool) (string, error) {
	if o.passwordFile == "" && o.passwordCommand == "" {
		o.passwordFile, o.passwordCommand = a.Getenv("COWL_PASSWORD_FILE"), a.Getenv("COWL_PASSWORD_COMMAND")
	}
	var text string
	var err error
	switch p := a.Getenv("COWL_PASSWORD"); {
	case o.passwordFile != "":
		text, err = readPassword(o.passwordFile)
	case o.passwordCommand != "":
		text, err = a.runPassword(ctx, o.passwordCommand)
	case p != "":
		return p, nil
	case a.AskPassword == nil || !a.Interactive:
		return "", errs.WithHint(errs.E(errs.Usage, "%s needs a password, and nobody can be asked.", t),
			"Use --password-file, --password-command or $COWL_PASSWORD.")
	default:
		text, err = a.askPassword(t, again)
	}
	if err == nil && text == "" {
		err = errs.E(errs.Usage, "The password of %s is empty.", t)
	}
	return text, err
}

// maxPassword bounds what is read as one.
const maxPassword = 64 << 10

func readPassword(path string) (string, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	if len(text) > maxPassword {
		return "", errs.E(errs.Usage, "%s has %d bytes: that is no password.", path, len(text))
	}
	return firstLine(string(text)), nil
}

// firstLine is a password as an editor or echo leaves it in a file.
func firstLine(text string) string {
	line, _, _ := strings.Cut(text, "\n")
	return strings.TrimSuffix(line, "\r")
}

// runPassword runs a command of the shell for the password.
func (a *app) runPassword(ctx context.Context, command string) (string, error) {
	shell, flag := "/bin/sh", "-c"
	if runtime.GOOS == "windows" {
		shell, flag = "cmd", "/c"
	}
	cmd := exec.CommandContext(ctx, shell, flag, command)
	cmd.Stdin, cmd.Stderr = a.Stdin, a.Stderr
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("password command %q: %w", command, err)
	}
	return firstLine(string(out)), nil
}

func (a *app) askPassword(t targets.Target, again bool) (string, error) {
	text, err := a.AskPassword(fmt.Sprintf("Password of %s: ", t))
	if err != nil || !again {
		return text, err
	}
	second, err := a.AskPassword("Once more: ")
	if err == nil && second != text {
		err = errs.E(errs.Usage, "The two passwords differ.")
	}
	return text, err
}

// withRepo runs f with a repository that is open, and closes it. reading says
// that images are to be read.
func (a *app) withRepo(ctx context.Context, t targets.Target, o accessFlags, reading bool, f func(*repo.Repo) error) error {
	st, err := t.Open(ctx, a.Getenv, false)
	if err != nil {
		return err
	}
	password, err := a.password(ctx, t, o, false)
	if err != nil {
		return errors.Join(err, st.Close(context.WithoutCancel(ctx)))
	}
	r, err := repo.Open(ctx, st, password, repo.Options{CacheDir: a.repoCache(t), Reading: reading})
	if err != nil {
		return err
	}
	err = f(r)
	return errors.Join(err, r.Close(context.WithoutCancel(ctx)))
}

// repoCache is where is kept what was read of a repository, "" where there is
// no place for it.
func (a *app) repoCache(t targets.Target) string {
	dir := a.Getenv("COWL_CACHE_DIR")
	if dir == "" {
		switch cache, home := a.Getenv("XDG_CACHE_HOME"), a.Getenv("HOME"); {
		case filepath.IsAbs(cache):
			dir = filepath.Join(cache, "cowl")
		case home != "":
			dir = filepath.Join(home, ".cache", "cowl")
		default:
			return ""
		}
	}
	sum := sha256.Sum256([]byte(t.CacheKey()))
	return filepath.Join(absolute(dir), "repo-"+hex.EncodeToString(sum[:8]))
}
