// Package exact rejects flags that have white space or invisible characters at either
// end. It is for secrets and for values that are compared byte for byte. They are
// copied by hand, by a shell, or from a file that ends with a line break.
package exact

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
)

// Check examines the values of all flags with the tag `exact:""`, from every source.
// It does not trim them, because other programs get the same value and must agree on
// it. The error names the flag and does not contain the value.
func Check(flags []*kong.Flag) error {
	for _, flag := range flags {
		if !flag.Tag.Has("exact") {
			continue
		}
		switch value := flag.Target.Interface().(type) {
		case string:
			if wrong := check(value); wrong != "" {
				return fmt.Errorf("--%s %s", flag.Name, wrong)
			}
		case []string:
			for i, one := range value {
				if wrong := check(one); wrong != "" {
					return fmt.Errorf("--%s: value %d %s", flag.Name, i+1, wrong)
				}
			}
		}
	}
	return nil
}

// check returns what is wrong at either end of a value, or "".
func check(value string) string {
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	switch {
	case value == "":
		return ""
	case strings.TrimFunc(value, invisible) == "":
		return "is only white space: set it, or leave it out"
	case invisible(last):
		return "ends with " + name(last) + ": remove it"
	case invisible(first):
		return "begins with " + name(first) + ": remove it"
	}
	return ""
}

// invisible reports whether r is white space, a control character, or a format
// character, for example a byte order mark.
func invisible(r rune) bool { return unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf) }

var names = map[rune]string{
	'\n': "a line break", '\r': "a line break", ' ': "a space", '\t': "a tab",
	'\u00a0': "a non-breaking space", '\ufeff': "a byte order mark",
}

func name(r rune) string {
	if known, ok := names[r]; ok {
		return known
	}
	return fmt.Sprintf("an invisible character, U+%04X", r)
}
