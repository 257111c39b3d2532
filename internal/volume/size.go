package volume

import (
	"fmt"
	"math"
	"math/big"
	"strconv"
	"strings"

	"cowl/internal/errs"
)

// Sign is the + or - before a size that is relative to the present one.
type Sign byte

// The signs of a size argument.
const (
	Absolute Sign = 0
	Plus     Sign = '+'
	Minus    Sign = '-'
)

// unitBytes returns what one of a unit letter is in bytes, in powers of 1024
// whatever the letter's case, as LVM2 reads sizes.
func unitBytes(letter byte) (float64, bool) {
	switch letter | 0x20 {
	case 'b':
		return 1, true
	case 's':
		return 512, true
	}
	if i := strings.IndexByte("kmgtpe", letter|0x20); i >= 0 {
		return math.Pow(1024, float64(i+1)), true
	}
	return 0, false
}

// ParseSize reads the argument of a size option such as -L: a number with an
// optional fraction and unit (b, s, k, m, g, t, p, e; base 2 whatever the
// case; "MB" and "MiB" mean m), in defaultUnit without one. The result is in
// bytes, a multiple of 512. A leading + is allowed and means nothing.
func ParseSize(arg string, defaultUnit byte) (int64, error) {
	n, sign, err := ParseRelativeSize(arg, defaultUnit)
	if err == nil && sign == Minus {
		return 0, errs.E(errs.Usage, "Size may not be negative.")
	}
	return n, err
}

// ParseRelativeSize is ParseSize for options where + and - mean "more" and
// "less than now".
func ParseRelativeSize(arg string, defaultUnit byte) (int64, Sign, error) {
	sign, rest := cutSign(arg)
	digits := len(rest) - len(strings.TrimLeft(rest, "0123456789."))
	value, err := strconv.ParseFloat(rest[:digits], 64)
	if err != nil {
		return 0, sign, errs.E(errs.Usage, "Size requires number argument.")
	}
	letter, err := unitLetter(rest[digits:], defaultUnit)
	if err != nil {
		return 0, sign, err
	}
	n, err := sizeInBytes(value, letter)
	return n, sign, err
}

func cutSign(arg string) (Sign, string) {
	if arg != "" && (arg[0] == '+' || arg[0] == '-') {
		return Sign(arg[0]), arg[1:]
	}
	return Absolute, arg
}

// unitLetter returns the letter of a unit as it was typed.
func unitLetter(unit string, fallback byte) (byte, error) {
	if unit == "" {
		return fallback, nil
	}
	_, known := unitBytes(unit[0])
	tail := strings.ToLower(unit[1:])
	isPrefix := known && unit[0]|0x20 != 'b' && unit[0]|0x20 != 's'
	if !known || tail != "" && !(isPrefix && (tail == "b" || tail == "ib")) {
		return 0, errs.E(errs.Usage, "Can't parse size argument.")
	}
	return unit[0], nil
}

func sizeInBytes(value float64, letter byte) (int64, error) {
	factor, ok := unitBytes(letter)
	if !ok {
		return 0, errs.E(errs.Usage, "Can't parse size argument.")
	}
	// int64 holds less than LVM2's limit of 16 EiB; no device comes near.
	if value*factor >= math.MaxInt64 {
		return 0, errs.E(errs.Usage, "Size is too big (>=16EiB).")
	}
	n := int64(value * factor)
	if factor == 1 && n%512 != 0 {
		return 0, errs.E(errs.Usage, "Size is not a multiple of 512. Try using %d or %d.", n/512*512, n/512*512+512)
	}
	return n / 512 * 512, nil
}

// percentWords are the words after % in an -l argument.
var percentWords = map[string]SizeOf{
	"VG": OfVG, "V": OfVG,
	"FREE": OfFree, "FR": OfFree, "F": OfFree,
	"PVS": OfPVs, "PV": OfPVs, "P": OfPVs,
	"ORIGIN": OfOrigin, "OR": OfOrigin, "O": OfOrigin,
	"LV": OfLV, "L": OfLV,
}

// ParseExtents reads the argument of -l: a number of extents, or
// N%{VG|FREE|PVS|ORIGIN|LV}. A leading + is allowed and means nothing.
func ParseExtents(arg string) (Size, error) {
	s, sign, err := ParseRelativeExtents(arg)
	if err == nil && sign == Minus {
		return Size{}, errs.E(errs.Usage, "Extents may not be negative.")
	}
	return s, err
}

// ParseRelativeExtents is ParseExtents for options where + and - mean "more"
// and "less than now".
func ParseRelativeExtents(arg string) (Size, Sign, error) {
	sign, rest := cutSign(arg)
	number, of, isPercent := strings.Cut(rest, "%")
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return Size{}, sign, errs.E(errs.Usage, "Extents requires number argument, not %q.", arg)
	}
	if !isPercent {
		return Size{Extents: Extents(n)}, sign, nil
	}
	what, ok := percentWords[strings.ToUpper(of)]
	if !ok {
		return Size{}, sign, errs.E(errs.Usage, "Specified %%%s is unknown.", of)
	}
	return Size{Percent: n, Of: what}, sign, nil
}

// IsZero reports whether no size was given (or the number zero was).
func (s Size) IsZero() bool { return s.Bytes == 0 && s.Extents == 0 && s.Percent == 0 }

// ParseChunkSize reads the argument of -c, a bare number being in KiB.
func ParseChunkSize(arg string) (Sectors, error) {
	n, err := ParseSize(arg, 'k')
	if err != nil {
		return 0, err
	}
	if n == 0 {
		return 0, errs.E(errs.Usage, "--chunksize may not be zero.")
	}
	c := Sectors(n >> 9)
	return c, CheckChunkSize(c)
}

// The chunk sizes of a snapshot: what LVM2 allows, and its default.
const (
	MinChunk     Sectors = 4 << 10 >> 9
	MaxChunk     Sectors = 512 << 10 >> 9
	DefaultChunk Sectors = MinChunk
)

// CheckChunkSize returns an error of kind errs.Usage unless LVM2 would accept
// the chunk size for a new snapshot.
func CheckChunkSize(c Sectors) error {
	if c < MinChunk || c > MaxChunk || c&(c-1) != 0 {
		return errs.E(errs.Usage, "Chunk size must be a power of 2 in the range 4K to 512K.")
	}
	return nil
}

// SizeFormat says how sizes are shown, as LVM2's --units and --nosuffix do.
type SizeFormat struct {
	// Units is one letter, or a number and a letter for a unit of one's own.
	// r and h choose the unit by the size, r marking with < what was rounded
	// up; b, s, k, m, g, t, p, e are fixed. Capitals count in powers of 1000.
	// "" means r.
	Units    string
	NoSuffix bool
	Long     bool // "4.00 MiB" as in lvdisplay instead of "4.00m" as in lvs
}

// FormatSize returns a size in bytes as LVM2's reports show it with the given
// --units: "4.00m", "<1.50g", "0 ".
func FormatSize(bytes int64, units string) string {
	return SizeFormat{Units: units}.Format(bytes)
}

// LongSize returns a size in bytes as LVM2's messages show it: "4.00 MiB".
func LongSize(bytes int64) string { return SizeFormat{Long: true}.Format(bytes) }

// CheckUnits returns an error of kind errs.Usage unless SizeFormat.Units may
// be the text.
func CheckUnits(units string) error {
	if _, ok := parseUnits(units); !ok {
		return errs.E(errs.Usage, "Invalid units specification")
	}
	return nil
}

// displayUnit is a parsed SizeFormat.Units.
type displayUnit struct {
	letter byte
	bytes  float64 // of one unit; 0: chosen by the size
	own    bool    // a number stood before the letter
}

func parseUnits(units string) (displayUnit, bool) {
	if units == "" {
		units = "r"
	}
	letter := units[len(units)-1]
	if !isAlnum(letter) {
		return displayUnit{}, false
	}
	if strings.IndexByte("rRhH", letter) >= 0 {
		return displayUnit{letter: letter}, len(units) == 1
	}
	factor, ok := displayFactor(letter)
	if !ok || len(units) == 1 {
		return displayUnit{letter: letter, bytes: factor}, ok
	}
	n, err := strconv.ParseFloat(units[:len(units)-1], 64)
	u := displayUnit{letter: letter, bytes: n * factor, own: true}
	return u, err == nil && n > 0 && !math.IsInf(u.bytes, 0)
}

// displayFactor returns what one of a unit is in bytes where a capital counts
// in powers of 1000.
func displayFactor(letter byte) (float64, bool) {
	factor, ok := unitBytes(letter)
	if i := strings.IndexByte("KMGTPE", letter); i >= 0 {
		factor = math.Pow(1000, float64(i+1))
	}
	return factor, ok
}

// Format returns a size in bytes. Units that CheckUnits refuses are taken as r.
func (f SizeFormat) Format(bytes int64) string {
	u, ok := parseUnits(f.Units)
	if !ok {
		u = displayUnit{letter: 'r'}
	}
	human := u.bytes == 0
	if bytes == 0 {
		return "0" + f.zeroSuffix(u)
	}
	mark := ""
	if human {
		letter := u.letter
		u = humanUnit(bytes, letter == 'R' || letter == 'H')
		if letter|0x20 == 'r' && roundsUp(bytes, u.bytes) {
			mark = "<"
		}
	}
	suffix := ""
	if !f.NoSuffix || human {
		suffix = f.suffix(u)
	}
	if letter := u.letter | 0x20; !human && !u.own && (letter == 'b' || letter == 's') {
		return strconv.FormatInt(bytes/int64(u.bytes), 10) + suffix
	}
	return fmt.Sprintf("%s%.2f%s", mark, float64(bytes)/u.bytes, suffix)
}

// humanUnit returns the largest unit of which bytes is at least one.
func humanUnit(bytes int64, si bool) displayUnit {
	letters := "kmgtpe"
	if si {
		letters = "KMGTPE"
	}
	unit := displayUnit{letter: 'b', bytes: 1}
	for i := range len(letters) {
		if factor, _ := displayFactor(letters[i]); float64(bytes) >= factor {
			unit = displayUnit{letter: letters[i], bytes: factor}
		}
	}
	return unit
}

// roundsUp reports whether two decimals show more than bytes in the unit. The
// comparison is exact: at 16 TiB a float's last bits are bytes.
func roundsUp(bytes int64, unit float64) bool {
	shown, _ := new(big.Rat).SetString(fmt.Sprintf("%.2f", float64(bytes)/unit))
	exact := new(big.Rat).Quo(new(big.Rat).SetInt64(bytes), new(big.Rat).SetFloat64(unit))
	return shown.Cmp(exact) > 0
}

// suffix returns what stands behind a number: "m" or " MiB".
func (f SizeFormat) suffix(u displayUnit) string {
	lower := u.letter | 0x20
	switch {
	case u.own && f.Long:
		return " Un"
	case u.own:
		return "U"
	case lower == 'b' && f.Long:
		return " B "
	case lower == 's' && f.Long:
		return " Se"
	case lower == 'b' || lower == 's':
		return strings.ToUpper(string(u.letter))
	case !f.Long:
		return string(u.letter)
	case u.letter == 'K':
		return " kB"
	case u.letter != lower:
		return " " + string(u.letter) + "B"
	}
	return " " + strings.ToUpper(string(u.letter)) + "iB"
}

// zeroSuffix returns what stands behind 0, which has no decimals.
func (f SizeFormat) zeroSuffix(u displayUnit) string {
	switch {
	case f.NoSuffix:
		return ""
	case u.bytes != 0:
		return f.suffix(u)
	case f.Long:
		return "   "
	}
	return " "
}
