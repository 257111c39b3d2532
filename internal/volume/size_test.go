package volume

import (
	"strings"
	"testing"

	"cowl/internal/errs"
)

func TestParseSize(t *testing.T) {
	const m = 1 << 20
	for _, c := range []struct {
		arg  string
		want int64
		err  string
	}{
		{"1", m, ""}, {"+4", 4 * m, ""}, {"1.5", m * 3 / 2, ""}, {"4MB", 4 * m, ""}, {"4MiB", 4 * m, ""}, {"4m", 4 * m, ""},
		{"10G", 10 << 30, ""}, {"2t", 2 << 40, ""}, {"3s", 1536, ""}, {"1024b", 1024, ""}, {"1P", 1 << 50, ""}, {"1e", 1 << 60, ""},
		{"5.3M", 10854 * 512, ""}, // cut to sectors
		{".5g", 512 * m, ""}, {"0", 0, ""}, {"512B", 512, ""},
		{"1b", 0, "Size is not a multiple of 512. Try using 0 or 512."},
		{"513b", 0, "Size is not a multiple of 512. Try using 512 or 1024."},
		{"", 0, "Size requires number argument."},
		{"x", 0, "Size requires number argument."},
		{"1.2.3", 0, "Size requires number argument."},
		{"4q", 0, "Can't parse size argument."},
		{"4 m", 0, "Can't parse size argument."},
		{"4mx", 0, "Can't parse size argument."},
		{"4sb", 0, "Can't parse size argument."},
		{"-4", 0, "Size may not be negative."},
		{"100e", 0, "Size is too big (>=16EiB)."},
		{"99999999999999999999999999999", 0, "Size is too big (>=16EiB)."},
		{"1e5", 0, "Can't parse size argument."}, // not a float's exponent
		{"0x10", 0, "Can't parse size argument."},
	} {
		got, err := ParseSize(c.arg, 'm')
		if c.err != "" {
			if err == nil || err.Error() != c.err || !errs.Is(err, errs.Usage) {
				t.Errorf("ParseSize(%q) = %d, %v; want the error %q", c.arg, got, err, c.err)
			}
			continue
		}
		if err != nil || got != c.want {
			t.Errorf("ParseSize(%q) = %d, %v; want %d", c.arg, got, err, c.want)
		}
	}
	if n, sign, err := ParseRelativeSize("-1G", 'm'); n != 1<<30 || sign != Minus || err != nil {
		t.Errorf("ParseRelativeSize(-1G) = %d %c %v", n, sign, err)
	}
	if n, sign, err := ParseRelativeSize("+8", 'k'); n != 8192 || sign != Plus || err != nil {
		t.Errorf("ParseRelativeSize(+8) = %d %c %v", n, sign, err)
	}
}

func TestParseExtents(t *testing.T) {
	for _, c := range []struct {
		arg  string
		want Size
		err  string
	}{
		{"10", Size{Extents: 10}, ""},
		{"50%VG", Size{Percent: 50, Of: OfVG}, ""},
		{"100%free", Size{Percent: 100, Of: OfFree}, ""},
		{"1%F", Size{Percent: 1, Of: OfFree}, ""},
		{"20%PVS", Size{Percent: 20, Of: OfPVs}, ""},
		{"100%ORIGIN", Size{Percent: 100, Of: OfOrigin}, ""},
		{"10%LV", Size{Percent: 10, Of: OfLV}, ""},
		{"10%Ve", Size{}, "Specified %Ve is unknown."},
		{"10%FRE", Size{}, "Specified %FRE is unknown."},
		{"10%", Size{}, "Specified % is unknown."},
		{"-1", Size{}, "Extents may not be negative."},
		{"1.5", Size{}, `Extents requires number argument, not "1.5".`},
		{"10.5%VG", Size{}, `Extents requires number argument, not "10.5%VG".`},
		{"", Size{}, `Extents requires number argument, not "".`},
		{"4294967296", Size{}, `Extents requires number argument, not "4294967296".`},
	} {
		got, err := ParseExtents(c.arg)
		switch {
		case c.err == "" && (err != nil || got != c.want):
			t.Errorf("ParseExtents(%q) = %v, %v; want %v", c.arg, got, err, c.want)
		case c.err != "" && (err == nil || err.Error() != c.err):
			t.Errorf("ParseExtents(%q) = %v, %v; want the error %q", c.arg, got, err, c.err)
		}
	}
}

func TestParseChunkSize(t *testing.T) {
	for arg, want := range map[string]Sectors{"4": 8, "64k": 128, "512": 1024, "8192b": 16} {
		if got, err := ParseChunkSize(arg); err != nil || got != want {
			t.Errorf("ParseChunkSize(%q) = %d, %v; want %d", arg, got, err, want)
		}
	}
	for arg, want := range map[string]string{
		"0": "--chunksize may not be zero.", "x": "Size requires number argument.",
		"3": "Chunk size must be a power of 2", "2048k": "Chunk size must be", "1.5": "Chunk size must be", "2k": "Chunk size must be",
	} {
		if got, err := ParseChunkSize(arg); err == nil || !strings.HasPrefix(err.Error(), want) {
			t.Errorf("ParseChunkSize(%q) = %d, %v; want the error %q", arg, got, err, want)
		}
	}
}

func TestParsePVRanges(t *testing.T) {
	for _, c := range []struct {
		arg  string
		want []PVRange
	}{
		{"/dev/sdb", []PVRange{{PV: "/dev/sdb", Whole: true}}},
		{"/dev/sdb:0-99", []PVRange{{PV: "/dev/sdb", Start: 0, End: 99}}},
		{"/dev/sdb:0-9:20+5:7:30-", []PVRange{
			{PV: "/dev/sdb", Start: 0, End: 9}, {PV: "/dev/sdb", Start: 20, End: 24},
			{PV: "/dev/sdb", Start: 7, End: 7}, {PV: "/dev/sdb", Start: 30, End: endOfPV}}},
		{"pci-0000:00:1f.2-ata-1", []PVRange{{PV: "pci-0000:00:1f.2-ata-1", Whole: true}}},
		{"a:b:0-1", []PVRange{{PV: "a:b", Start: 0, End: 1}}},
		{"disk.img#5:3", []PVRange{{PV: "disk.img#5", Start: 3, End: 3}}},
		{"@fast", []PVRange{{PV: "@fast", Whole: true}}},
		{"/dev/sdb:5-4", nil}, {"/dev/sdb:5+0", nil}, {":5", nil}, {"/dev/sdb:99999999999", nil},
	} {
		got, err := ParsePVRanges(c.arg)
		if (err != nil) != (c.want == nil) {
			t.Errorf("ParsePVRanges(%q) = %v, %v", c.arg, got, err)
			continue
		}
		if len(got) != len(c.want) {
			t.Errorf("ParsePVRanges(%q) = %v, want %v", c.arg, got, c.want)
			continue
		}
		for i := range got {
			if got[i] != c.want[i] {
				t.Errorf("ParsePVRanges(%q) = %v, want %v", c.arg, got, c.want)
			}
		}
	}
}

// TestFormatSize holds what lvm2 2.03.16 printed for these sizes in KiB.
func TestFormatSize(t *testing.T) {
	for _, c := range []struct {
		kib   int64
		units string
		want  string
	}{
		{1, "r", "1.00k"}, {1023, "r", "1023.00k"}, {1024, "r", "1.00m"}, {1025, "r", "1.00m"},
		{1030, "r", "<1.01m"}, {1034, "r", "<1.01m"}, {1035, "r", "1.01m"}, {1999, "r", "1.95m"},
		{2047, "r", "<2.00m"}, {10235, "r", "<10.00m"}, {1048575, "r", "<1024.00m"},
		{1048577, "r", "1.00g"}, {1153433, "r", "<1.10g"}, {1153434, "r", "1.10g"}, {2097151, "r", "<2.00g"},
		{1152, "r", "1.12m"}, {20970496, "", "<20.00g"},
		{1, "R", "1.02K"}, {2, "R", "<2.05K"}, {1022, "R", "<1.05M"}, {1050000, "R", "<1.08G"},
		{1030, "h", "1.01m"}, {1048575, "h", "1024.00m"}, {20970496, "H", "21.47G"},
		{1, "b", "1024B"}, {1, "B", "1024B"}, {1, "s", "2S"}, {1, "S", "2S"},
		{1, "m", "0.00m"}, {20970496, "M", "21473.79M"}, {20970496, "t", "0.02t"}, {5529834, "k", "5529834.00k"},
		{1, "4096b", "0.25U"}, {20970496, "3m", "6826.33U"},
		{0, "r", "0 "}, {0, "h", "0 "}, {0, "b", "0B"}, {0, "s", "0S"}, {0, "k", "0k"}, {0, "M", "0M"}, {0, "e", "0e"},
	} {
		if got := FormatSize(c.kib<<10, c.units); got != c.want {
			t.Errorf("FormatSize(%d KiB, %q) = %q, want %q", c.kib, c.units, got, c.want)
		}
	}
	for _, c := range []struct {
		kib  int64
		f    SizeFormat
		want string
	}{
		{1030, SizeFormat{Long: true}, "<1.01 MiB"}, {1024, SizeFormat{Long: true, Units: "h"}, "1.00 MiB"},
		{1, SizeFormat{Long: true, Units: "b"}, "1024 B "}, {1, SizeFormat{Long: true, Units: "s"}, "2 Se"},
		{1, SizeFormat{Long: true, Units: "K"}, "1.02 kB"}, {3145728, SizeFormat{Long: true, Units: "H"}, "3.22 GB"},
		{0, SizeFormat{Long: true}, "0   "}, {0, SizeFormat{Long: true, Units: "b"}, "0 B "}, {0, SizeFormat{Long: true, Units: "k"}, "0 KiB"},
		{1, SizeFormat{NoSuffix: true}, "1.00k"}, // lvm2 keeps the suffix where the unit is not fixed
		{1, SizeFormat{NoSuffix: true, Units: "b"}, "1024"}, {3, SizeFormat{NoSuffix: true, Units: "k"}, "3.00"},
		{20970496, SizeFormat{NoSuffix: true, Units: "3m"}, "6826.33"}, {0, SizeFormat{NoSuffix: true}, "0"}, {0, SizeFormat{NoSuffix: true, Units: "s"}, "0"},
	} {
		if got := c.f.Format(c.kib << 10); got != c.want {
			t.Errorf("%+v.Format(%d KiB) = %q, want %q", c.f, c.kib, got, c.want)
		}
	}
	for _, bad := range []string{"x", "mm", "3h", "-3m", "0m", "3", "é", "1e999m"} {
		if CheckUnits(bad) == nil {
			t.Errorf("CheckUnits(%q) is content", bad)
		}
	}
}
