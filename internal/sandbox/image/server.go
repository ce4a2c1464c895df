package image

import (
	"archive/zip"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
)

// tools are what scripts in pods call, beside bash.
const tools = "awk basename cat chmod chown cp cut date dirname echo env expr false find grep head hostname id ln ls mkdir " +
	"mktemp mv printf readlink rm rmdir sed seq sh sleep sort stat tail tee test timeout touch tr true uname wc"

// users are those as whom the servers' own images run.
const users = "root:x:0:0::/:/bin/bash\nmysql:x:999:999::/:/bin/bash\nzookeeper:x:1000:1000::/:/bin/bash\nnobody:x:65534:65534::/:/bin/bash\n"

// system returns an image with a shell, its tools and the C library of this machine.
func system(name, user string) *Image {
	im := New(name)
	im.User, im.Env = user, []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin", "LANG=C.UTF-8"}
	for _, folder := range []string{"bin", "sbin", "lib", "lib64"} {
		im.Link("/"+folder, "usr/"+folder)
	}
	im.Folder("/tmp", fs.ModeSticky|0o777, 0)
	im.Text("/etc/passwd", users, 0o644)
	im.Text("/etc/group", strings.ReplaceAll(users, "::/:/bin/bash", ":"), 0o644)
	im.Text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n", 0o644)
	for _, tool := range append(strings.Fields(tools), "bash") {
		im.program(tool)
	}
	return im
}

// program adds an installed program, with the libraries that it is linked to. A script
// has none.
func (im *Image) program(name string) {
	path, err := exec.LookPath(name)
	for _, folder := range []string{"/usr/sbin", "/usr/local/sbin"} {
		if err != nil {
			path, err = exec.LookPath(filepath.Join(folder, name))
		}
	}
	if err != nil {
		im.err = errors.Join(im.err, err)
		return
	}
	im.Copy(resolved(path), path)
	im.libraries(path)
}

// library matches a line of ldd: "libc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x...)",
// or "/lib64/ld-linux-x86-64.so.2 (0x...)".
var library = regexp.MustCompile(`(?m)^\s*(?:\S+ => )?(/\S+) \(0x`)

// libraries adds the libraries of a program or a library, some of which may be in
// folders that the program itself knows.
func (im *Image) libraries(path string, folders ...string) {
	ldd := exec.Command("ldd", path)
	ldd.Env = append(os.Environ(), "LD_LIBRARY_PATH="+strings.Join(folders, ":"))
	said, err := ldd.CombinedOutput()
	if strings.Contains(string(said), "not found") {
		im.err = errors.Join(im.err, fmt.Errorf("libraries of %s are missing: %s", path, said))
		return
	}
	if err != nil && !strings.Contains(string(said), "not a dynamic executable") {
		im.err = errors.Join(im.err, fmt.Errorf("ldd %s: %w: %s", path, err, said))
		return
	}
	for _, found := range library.FindAllStringSubmatch(string(said), -1) {
		im.Copy(resolved(found[1]), found[1])
	}
}

// resolved is a path without links among its folders: an image has one /usr/lib.
func resolved(path string) string {
	folder, err := filepath.EvalSymlinks(filepath.Dir(path))
	if err != nil {
		return path
	}
	return filepath.Join(folder, filepath.Base(path))
}

// ZooKeeper is the image of the ZooKeeper that is installed, with Java, and with those
// of Apache's scripts that pods call: zkServer.sh start-foreground, and zkCli.sh.
func ZooKeeper(name string) *Image {
	im := system(name, "1000:1000")
	java, err := exec.LookPath("java")
	if err == nil {
		java, err = filepath.EvalSymlinks(java)
	}
	if err != nil {
		im.err = errors.Join(im.err, err)
		return im
	}
	home := filepath.Dir(filepath.Dir(java))
	for _, folder := range []string{"bin", "lib", "conf"} {
		im.Copy(filepath.Join(home, folder), filepath.Join(home, folder))
	}
	for _, unused := range []string{"ct.sym", "src.zip", "libawt_xawt.so", "libsplashscreen.so"} {
		im.Remove(filepath.Join(home, "lib", unused))
	}
	im.Link("/usr/bin/java", java)
	settings, _ := filepath.Glob("/etc/java-*-openjdk") // the pattern is a good one
	for _, folder := range settings {
		im.Copy(folder, folder)
	}
	libraries := filepath.Join(home, "lib")
	for _, library := range []string{"../bin/java", "server/libjvm.so", "libnet.so", "libnio.so", "libzip.so", "libjimage.so", "libmanagement.so"} {
		im.libraries(filepath.Join(libraries, library), libraries, filepath.Join(libraries, "server"))
	}
	jars := []string{"/usr/share/java/zookeeper.jar", "/usr/share/java/slf4j-simple.jar"}
	for _, jar := range jars {
		im.jar(jar)
	}
	run := "#!/bin/bash\n%s\nexec java $JVMFLAGS %s -cp " + strings.Join(jars, ":") + " %s\n"
	im.Text("/usr/bin/zkServer.sh", fmt.Sprintf(run,
		"[[ $1 == start-foreground ]] || { echo 'usage: zkServer.sh start-foreground [zoo.cfg]' >&2; exit 1; }", "$SERVER_JVMFLAGS",
		`org.apache.zookeeper.server.quorum.QuorumPeerMain "${2:-${ZOOCFGDIR:-/conf}/${ZOOCFG:-zoo.cfg}}"`), 0o755)
	im.Text("/usr/bin/zkCli.sh", fmt.Sprintf(run, "", "$CLIENT_JVMFLAGS -Dorg.slf4j.simpleLogger.defaultLogLevel=error",
		`org.apache.zookeeper.ZooKeeperMain "$@"`), 0o755)
	im.Command = []string{"zkServer.sh", "start-foreground"}
	return im
}

// jar adds a jar and those that its manifest names, which may be missing: Debian leaves
// out what only other features need.
func (im *Image) jar(path string) {
	if _, known := im.files[path]; known {
		return
	}
	im.Copy(path, path)
	names, err := classPath(path)
	if err != nil {
		im.err = errors.Join(im.err, fmt.Errorf("read the manifest of %s: %w", path, err))
		return
	}
	for _, name := range names {
		if !filepath.IsAbs(name) {
			name = filepath.Join(filepath.Dir(path), name)
		}
		if _, err := os.Stat(name); err == nil {
			im.jar(name)
		}
	}
}

// classPath returns the jars that a jar's manifest names. A long line of a manifest goes
// on in the next one, after a space.
func classPath(jar string) ([]string, error) {
	file, err := os.Open(jar)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	archive, err := zip.NewReader(file, info.Size())
	if err != nil {
		return nil, err
	}
	text, err := fs.ReadFile(archive, "META-INF/MANIFEST.MF")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	whole := strings.NewReplacer("\r\n ", "", "\n ", "").Replace(string(text))
	for line := range strings.Lines(whole) {
		if names, found := strings.CutPrefix(line, "Class-Path:"); found {
			return strings.Fields(names), nil
		}
	}
	return nil, nil
}

// MariaDB is the image of the MariaDB that is installed.
func MariaDB(name string) *Image {
	im := system(name, "999:999")
	for _, program := range []string{"mariadbd", "my_print_defaults", "resolveip"} {
		im.program(program)
	}
	im.mariadbClient()
	installer, err := exec.LookPath("mariadb-install-db")
	if err != nil {
		im.err = errors.Join(im.err, err)
	}
	im.Copy("/usr/bin/mariadb-install-db", installer)
	im.Copy("/usr/share/mysql", "/usr/share/mysql")
	im.Folder("/run/mysqld", 0o755, 999)
	im.Folder("/var/lib/mysql", 0o755, 999)
	im.Command = []string{"mariadbd"}
	return im
}

// MySQL is the image of the MySQL in a folder that scripts/mysql has extracted. Its C
// library is newer than the machine's, and replaces it. The command mysql is MariaDB's
// client.
func MySQL(name, folder string) *Image {
	im := system(name, "999:999")
	im.mariadbClient()
	im.Link("/usr/bin/mysql", "mariadb")
	im.Copy("/usr", folder)
	im.Text("/etc/mysql/my.cnf", "[mysqld]\nlc-messages-dir=/usr/share/mysql\n", 0o644)
	im.Folder("/run/mysqld", 0o755, 999)
	im.Folder("/var/lib/mysql", 0o755, 999)
	im.Command = []string{"mysqld"}
	return im
}

// mariadbClient adds a client, with what it needs for the passwords of MySQL.
func (im *Image) mariadbClient() {
	im.program("mariadb")
	plugins, _ := filepath.Glob("/usr/lib/*/libmariadb3/plugin/*.so") // the pattern is a good one
	for _, plugin := range plugins {
		im.Copy(plugin, plugin)
		im.libraries(plugin)
	}
}

// Etcd is the image of etcd, with the paths of its makers' image. The folder contains
// etcd and etcdctl.
func Etcd(name, folder string) *Image {
	im := New(name, "/usr/local/bin/etcd")
	for _, program := range []string{"etcd", "etcdctl"} {
		im.Copy("/usr/local/bin/"+program, filepath.Join(folder, program))
	}
	return im
}
