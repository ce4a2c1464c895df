package main

import (
	"strings"
	"testing"
)

// Each wrong use is answered in words that are ours, and with the help that tells
// more; no server is asked first.
func TestWrongUseIsExplained(t *testing.T) {
	t.Parallel()
	const dsn = "--mysql-dsn=u:p@tcp(127.0.0.1:1)/d"
	for _, test := range []struct{ args, want string }{
		{"", "missing flags: --mysql-dsn=DSN (see api serve --help)"},
		{"serve --stratgy=etcd " + dsn, `unknown flag --stratgy, did you mean "--strategy"? (see api serve --help)`},
		{"serve --lock-ttl", "--lock-ttl: expected duration value, but none was given (see api serve --help)"},
		{"nonsense", "unexpected argument nonsense (see api --help)"},
		{"serve nonsense", "unexpected argument nonsense (see api serve --help)"},
		{"config", `expected one of "list", "get", "set", "delete" (see api config --help)`},
		{"config dlete", `unexpected argument dlete, did you mean "delete"? (see api config --help)`},
		{"config set quantum soon " + dsn, `quantum: "soon" is not a duration (example: 1ms)`},
		{"config get quantm " + dsn, `there is no setting "quantm"`},
		{"etcd-auth --etcd-endpoints=127.0.0.1:1 --etcd-username=root --etcd-password=p --etcd-root-password=p", "name the service's user, not root"},
		{"health --health-timeout=0s", "--health-timeout is 0s, must be positive"},
		{"purge --before=soon " + dsn, `--before: "soon" is not a date (2006-01-02)`},
		{"purge --before", "--before: expected string value, but none was given (see api purge --help)"},
	} {
		_, err := tool(t, strings.Fields(test.args)...)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("api %s: got %v, want %s", test.args, err, test.want)
		}
	}
}

// What a flag is when it is not given stands in its help, and each has one.
func TestHelpSaysWhatIsSoWithoutAFlag(t *testing.T) {
	t.Parallel()
	for command, wants := range map[string][]string{
		"":       {"This is the default command"},
		"serve":  {"byte order (100)", "(0.01)", "0, the default, is no limit", `--addr=":8080"`},
		"health": {`--addr=":8080"`, "(3s)", "$FLASHSALE_ADDR", "$FLASHSALE_TLS_CERT"},
		"purge":  {"within the last 24h,"},
	} {
		help, err := tool(t, append(strings.Fields(command), "--help")...)
		words := strings.Join(strings.Fields(help), " ") // lines end where they end
		for _, want := range wants {
			if err != nil || !strings.Contains(words, want) {
				t.Errorf("api %s --help lacks %q: %v\n%s", command, want, err, help)
			}
		}
	}
}
