package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// An ambiguous file is rejected. The error names the file and the mistake, and quotes no
// value.
func TestFileOfFlagsIsReadInOneWayOnly(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name, text string
		want       []string // nothing: it is taken
	}{
		{"both spellings", `{"jwt_secret":"a","lock-ttl":"5s","mysql-pool":40,"insecure-demo":true}`, nil},
		{"a list", `{"trusted-proxies":["10.0.0.1","10.0.0.2"]}`, nil},
		{"a text for a list", `{"trusted-proxies":"10.0.0.1,10.0.0.2"}`, nil},
		{"nothing", ``, []string{"not a JSON object of flags", "EOF"}},
		{"a broken line", "{\n\"jwt-secret\":\"hidden\",\nhidden}", []string{"line 3", "invalid character 'h'"}},
		{"a text that does not end", `{"jwt-secret":"hidden`, []string{"line 1", "/jwt-secret"}},
		{"a list of flags", `["hidden"]`, []string{"not a JSON object of flags"}},
		{"null", `null`, []string{"not a JSON object of flags"}},
		{"something behind the object", `{"lock-ttl":"5s"} {"lock-ttl":"hidden"}`, []string{"after top-level value"}},
		{"a name twice", `{"jwt-secret":"hidden","jwt-secret":"hidden too"}`, []string{`duplicate`, `"jwt-secret"`}},
		{"a flag in two spellings", `{"lock-ttl":"0s","lock_ttl":"5s"}`, []string{"lock-ttl and lock_ttl are the same flag"}},
		{"a part of a connection", `{"mysql-pool":4.9}`, []string{"--mysql-pool", "4.9"}},
		{"a number that is rounded", `{"mysql-pool":4e1}`, []string{"--mysql-pool", "4e1"}},
		{"a duration of no unit", `{"lock-ttl":5}`, []string{"--lock-ttl", "missing unit"}},
		{"a flag that is null", `{"jwt-secret":null}`, []string{"jwt-secret must be a string, a number, a boolean or a list of those"}},
		{"a flag that is an object", `{"jwt-secret":{"hidden":1}}`, []string{"jwt-secret must be a string, a number, a boolean or a list of those"}},
		{"a list for one value", `{"jwt-secret":["hidden"]}`, []string{"--jwt-secret", "must be a single value"}},
		{"a list of lists", `{"trusted-proxies":[["hidden"]]}`, []string{"trusted-proxies must not contain a list within a list"}},
		{"another file", `{"config":"hidden"}`, []string{"a file cannot set config"}},
		{"a flag that is none", `{"jwt_secrets":"hidden"}`, []string{"unknown flag jwt_secrets"}},
	} {
		file := filepath.Join(t.TempDir(), "flags.json")
		if err := os.WriteFile(file, []byte(test.text), 0o600); err != nil {
			t.Fatal(err)
		}
		// It reads every flag, then fails because its DSN is invalid.
		_, err := tool(t, "serve", "--config="+file, "--mysql-dsn=x", "--admin-token="+adminToken, "--insecure-demo", "--strategy=conditional", "--addr=127.0.0.1:0")
		if test.want == nil {
			test.want = []string{"malformed DSN"}
		} else if !strings.Contains(strings.Join(test.want, ""), "--") {
			test.want = append(test.want, "--config: "+file)
		}
		for _, want := range test.want {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("%s: got %q, which lacks %q", test.name, err, want)
			}
		}
		if strings.Contains(err.Error(), "hidden") {
			t.Errorf("%s: the error quotes the file: %q", test.name, err)
		}
	}
	if _, err := tool(t, "version", "--config=/nowhere/flags.json"); err == nil || !strings.Contains(err.Error(), "--config: open /nowhere/flags.json") {
		t.Errorf("a missing file: %v", err)
	}
}

// A number of any length has the same value as on the command line.
func TestNumbersOfTheFileAreNotRounded(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "flags.json")
	const digits = "12345678901234567890123456789012345678901"
	if err := os.WriteFile(file, []byte(`{"jwt-secret":`+digits+`}`), 0o600); err != nil {
		t.Fatal(err)
	}
	config, err := readConfig(file)
	if err != nil || config.values["jwt-secret"] != digits {
		t.Errorf("got %+v, %v", config, err)
	}
}
