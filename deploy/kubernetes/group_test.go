package kubernetes_test

import (
	"bufio"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// client stands for the program mysql. This server is outside of a group. What another one says is
// in a file of its name, and DEAF is how many questions about the state are not answered.
const client = `#!/bin/bash
cd "${0%/*}"
sql=${*: -1}
case "$*" in
*--host=*)
	[[ $1 =~ mysql-[0-9] && -e $BASH_REMATCH ]] || exit 1
	[[ $sql != *gtid_executed* ]] || { cat "$BASH_REMATCH"; exit; }
	echo >>asked
	(($(wc -l <asked) > DEAF)) || exit 1
	cut -f 1 "$BASH_REMATCH"
	;;
*GTID_SUBSET*) [[ $sql == *uuid:1-9* ]] && echo "$COMPARED" || echo 11 ;;
*gtid_executed*) echo uuid:1-5 ;;
*IFNULL*) echo OFFLINE ;;
*) echo "$sql" >>done ;;
esac
`

// A client that writes to a server before it is in the group would keep it out for ever. The
// accounts, and all else that a server has of its own, come before it refuses writes.
func TestServersOutsideOfTheGroupRefuseWrites(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("mysql/start.sh")
	if err != nil {
		t.Fatal(err)
	}
	folder := t.TempDir()
	if err := os.WriteFile(filepath.Join(folder, "mysqld"), []byte("#!/bin/bash\n[[ $* != *--initialize* ]] || mkdir "+folder+"/data.new\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("/var/lib/mysql/", folder+"/", "/run/mysqld/", folder+"/").Replace(string(script))
	cmd := exec.CommandContext(t.Context(), "bash", "-c", text)
	cmd.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "HOSTNAME=mysql-1", "MYSQL_PASSWORD=a", "MYSQL_OWNER_PASSWORD=b", "MYSQL_GROUP_PASSWORD=c",
		"INNODB_BUFFER_POOL_SIZE=128M", "GROUP_NAME=group")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	accounts, err := os.ReadFile(filepath.Join(folder, "accounts.sql"))
	if err != nil || !strings.HasSuffix(string(accounts), "\nSET GLOBAL super_read_only=ON;\n") {
		t.Errorf("a server starts with %v\n%s", err, accounts)
	}
}

func TestOneServerMayFoundTheGroup(t *testing.T) {
	t.Parallel()
	script, err := os.ReadFile("mysql/group.sh") // so that a change of it runs the test again
	if err != nil {
		t.Fatal(err)
	}
	const founds = "founding the group"
	for name, tt := range map[string]struct {
		own            string
		others         map[string]string
		deaf, compared string
		want           string
	}{
		"the first of equals":       {own: "0", others: map[string]string{"mysql-1": "OFFLINE\tuuid:1-5", "mysql-2": "OFFLINE\tuuid:1-5"}, want: founds},
		"not the second":            {own: "1", others: map[string]string{"mysql-0": "OFFLINE\tuuid:1-5", "mysql-2": "OFFLINE\tuuid:1-5"}, want: "mysql-0 founds the group"},
		"the one with more":         {own: "2", others: map[string]string{"mysql-0": "ERROR\tuuid:1-9", "mysql-1": "OFFLINE\tuuid:1-9"}, compared: "10", want: founds},
		"not one with less":         {own: "0", others: map[string]string{"mysql-1": "OFFLINE\tuuid:1-9", "mysql-2": "OFFLINE\tuuid:1-5"}, compared: "01", want: "mysql-1 founds the group: it has more transactions"},
		"none, if both lack some":   {own: "0", others: map[string]string{"mysql-1": "OFFLINE\tuuid:1-9", "mysql-2": "OFFLINE\tuuid:1-5"}, compared: "00", want: "mysql-1 and mysql-0 each have transactions that the other lacks, so no group is founded: compare their data, choose the server to keep, and delete the volume of the other"},
		"none, if one is down":      {own: "0", others: map[string]string{"mysql-1": "OFFLINE\tuuid:1-5"}, want: "waiting for mysql-2 to answer"},
		"none beside a group":       {own: "0", others: map[string]string{"mysql-1": "ONLINE\tuuid:1-5", "mysql-2": "OFFLINE\tuuid:1-5"}, want: "joining the group"},
		"none beside a silent one":  {own: "0", others: map[string]string{"mysql-1": "ONLINE\tuuid:1-5", "mysql-2": "ONLINE\tuuid:1-5"}, deaf: "2", want: "mysql-1 is in a group"},
		"none beside a joining one": {own: "0", others: map[string]string{"mysql-1": "RECOVERING\tuuid:1-5", "mysql-2": "OFFLINE\tuuid:1-5"}, want: "mysql-1 is in a group"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			folder := t.TempDir()
			if err := os.WriteFile(filepath.Join(folder, "mysql"), []byte(client), 0o755); err != nil {
				t.Fatal(err)
			}
			for file, text := range tt.others {
				if err := os.WriteFile(filepath.Join(folder, file), []byte(text+"\n"), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, "bash", "-c", string(script))
			cmd.Env = append(os.Environ(), "PATH="+folder+":"+os.Getenv("PATH"), "HOSTNAME=mysql-"+tt.own, "MYSQL_GROUP_PASSWORD=secret", "DEAF="+tt.deaf, "COMPARED="+tt.compared)
			// The script's children are killed as well: they write into folder.
			cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
			cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
			output, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			lines := bufio.NewReader(output)
			said, _ := lines.ReadString('\n') // what is missing is seen below
			cancel()
			_, _ = io.Copy(io.Discard, lines) // until all of them have ended
			_ = cmd.Wait()                    // it was killed
			if strings.TrimSpace(said) != tt.want {
				t.Errorf("mysql-%s says %q, want %q", tt.own, said, tt.want)
			}
			done, err := os.ReadFile(filepath.Join(folder, "done"))
			if err != nil || !strings.HasPrefix(string(done), "SET GLOBAL group_replication_bootstrap_group = OFF") {
				t.Errorf("it began with %q, %v; an old bootstrap must not go on", done, err)
			}
		})
	}
}
