package cli

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"cowl/internal/errs"
	"cowl/internal/volume"
)

// errRepeated is for options that may be given once only.
var errRepeated = errors.New("may not be repeated")

// option is an argument of an option that is checked as it is parsed.
type option[T any] struct {
	value T
	given bool
	text  string
	parse func(string) (T, error)
	kind  string // what the help calls the argument
}

func (o *option[T]) Set(text string) error {
	if o.given && text != o.text { // completion parses the same twice
		return errRepeated
	}
	v, err := o.parse(text)
	if err != nil {
		return err
	}
	o.value, o.text, o.given = v, text, true
	return nil
}

func (o *option[T]) String() string { return o.text }
func (o *option[T]) Type() string   { return o.kind }

// oneOf accepts some words, each for a value.
func oneOf[T any](words map[string]T) func(string) (T, error) {
	return func(text string) (T, error) {
		v, ok := words[text]
		if !ok {
			return v, errors.New("not one of the words that are allowed")
		}
		return v, nil
	}
}

// textOption is an option whose argument is taken as it is.
type textOption = option[string]

func newText(kind string) textOption {
	return textOption{kind: kind, parse: func(text string) (string, error) { return text, nil }}
}

// yesNo is an option with the argument y or n.
type yesNo = option[bool]

func newYesNo() yesNo {
	return yesNo{kind: "y|n", parse: oneOf(map[string]bool{"y": true, "n": false})}
}

// activation is the argument of -a: y, n, and LVM's words for activating by
// itself or exclusively, which mean y here.
func newActivation() yesNo {
	return yesNo{kind: "y|n|ay", parse: oneOf(map[string]bool{
		"y": true, "ay": true, "ey": true, "aay": true, "n": false, "en": false, "ln": false, "ly": true,
	})}
}

func newPermission() yesNo {
	return yesNo{kind: "rw|r", parse: oneOf(map[string]bool{"r": true, "rw": false})}
}

// sizeOption is an argument such as 10G.
func sizeOption(unit byte) option[int64] {
	return option[int64]{kind: "Size[m|UNIT]", parse: func(text string) (int64, error) { return volume.ParseSize(text, unit) }}
}

// rateOption is so much a second, such as 20M or 20M/s. KiB are LVM's unit for its
// own rates.
func rateOption() option[int64] {
	return option[int64]{kind: "Size[k|UNIT]", parse: func(text string) (int64, error) {
		return volume.ParseSize(strings.TrimSuffix(text, "/s"), 'k')
	}}
}

// tagsOption collects tags.
type tagsOption []string

func (t *tagsOption) Set(text string) error {
	tag := strings.TrimPrefix(text, "@")
	if err := volume.CheckTag(tag); err != nil {
		return errors.New("invalid tag")
	}
	*t = append(*t, tag)
	return nil
}

func (t *tagsOption) String() string { return strings.Join(*t, ",") }
func (*tagsOption) Type() string     { return "Tag" }

// flagOf adds an option with a checked argument.
func flagOf[T any](f *pflag.FlagSet, o *option[T], name, short, help string) {
	f.VarP(o, name, short, help)
}

// notZero checks a size that was given.
func notZero(given bool, zero bool, name string) error {
	if given && zero {
		return errs.E(errs.Usage, "--%s may not be zero.", name)
	}
	return nil
}

// parseCount reads a number that is not negative.
func parseCount(text string) (uint64, error) { return strconv.ParseUint(text, 10, 32) }

// parseExtentSize reads the size of a group's extents.
func parseExtentSize(text string) (int64, error) {
	n, err := volume.ParseSize(text, 'm')
	if err != nil {
		return 0, err
	}
	return n, volume.CheckExtentSize(volume.Sectors(n >> 9))
}

// parseSample reads a part of the whole in percent, and returns it as a
// fraction.
func parseSample(text string) (float64, error) {
	v, err := strconv.ParseFloat(strings.TrimSuffix(text, "%"), 64)
	if err != nil || !(v > 0 && v <= 100) {
		return 0, errs.E(errs.Usage, "%q is no part of 100 percent.", text)
	}
	return v / 100, nil
}
