// Package exact checks flags of which every byte counts: secrets, and what is
// compared as it is. They are copied by hand, by a shell, or from a file that an
// editor has ended with a line break. Whether a secret is good enough is left to
// those who take it.
package exact

import (
	"fmt"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/alecthomas/kong"
	"github.com/dustin/go-humanize"
)

// Check finds white space, and what nobody sees, around the values of flags
// whose tag has `exact:""`, wherever they came from. It cuts nothing off: other
// programs are given the same value, and must agree on it. The error names the
// flag, and does not repeat the value.
func Check(flags []*kong.Flag) error {
	for _, flag := range flags {
		if !flag.Tag.Has("exact") {
			continue
		}
		switch value := flag.Target.Interface().(type) {
		case string:
			if wrong := around(value); wrong != "" {
				return fmt.Errorf("--%s %s", flag.Name, wrong)
			}
		case []string:
			for i, one := range value {
				if wrong := around(one); wrong != "" {
					return fmt.Errorf("--%s: the %s %s", flag.Name, humanize.Ordinal(i+1), wrong)
				}
			}
		}
	}
	return nil
}

// around says what is wrong at either end of a value.
func around(value string) string {
	first, _ := utf8.DecodeRuneInString(value)
	last, _ := utf8.DecodeLastRuneInString(value)
	switch {
	case value == "":
		return ""
	case strings.TrimFunc(value, unseen) == "":
		return "is nothing but white space: set it, or leave it out"
	case unseen(last):
		return "ends with " + name(last) + ": remove it"
	case unseen(first):
		return "begins with " + name(first) + ": remove it"
	}
	return ""
}

// unseen are white space, control characters, and those that only change how others
// are shown, such as a byte order mark.
func unseen(r rune) bool { return unicode.IsSpace(r) || unicode.In(r, unicode.Cc, unicode.Cf) }

func name(r rune) string {
	switch r {
	case '\n', '\r':
		return "a line break"
	case ' ':
		return "a space"
	case '\t':
		return "a tab"
	case '\u00a0':
		return "a non-breaking space"
	case '\ufeff':
		return "a byte order mark"
	}
	return fmt.Sprintf("an invisible character, U+%04X", r)
}
