#!/usr/bin/env bash
# Kafka's lock of a log folder and those of filelock and portalocker do not exclude each other (seen 2026-12-01).
#
# A broker (4.3.1) holds `.lock` in each log folder by Java's file lock, on Linux a POSIX record lock. On the very same
# file filelock 4.3.1 and portalocker 4.4.2, which take an flock by default, succeed at once, and Kafka's succeeds
# while they hold theirs. fasteners 0.20 (a POSIX lock) and Kafka do exclude each other. That the two kinds ignore each
# other is in the system's manual; which of them a package takes, its front page does not tell, and all these look
# alike in use. A Python program that must keep off a folder in which a broker is at work has to take a POSIX lock, or
# one of the open file description (F_OFD_SETLK), of `.lock`, and an flock besides if Python programs are to be kept
# off, too.
# Needs Linux, a JDK of 17 or later, and Maven.
set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
cd "$tmp"
cat > pom.xml <<'XML'
<project>
  <modelVersion>4.0.0</modelVersion><groupId>findings</groupId><artifactId>jars</artifactId><version>1</version>
  <dependencies>
    <dependency>
      <groupId>org.apache.kafka</groupId><artifactId>kafka-server-common</artifactId><version>4.3.1</version>
    </dependency>
  </dependencies>
</project>
XML
mvn -q -B org.apache.maven.plugins:maven-dependency-plugin:3.9.0:copy-dependencies -DoutputDirectory=jars
cat > Hold.java <<'JAVA'
import java.io.File;
import org.apache.kafka.server.util.FileLock;

/** Tries to take the lock as a broker does, tells whether it did, and gives it back when its input ends. */
class Hold {
    public static void main(String[] arguments) throws Exception {
        FileLock lock = new FileLock(new File(arguments[0]));
        System.out.println(lock.tryLock());
        System.in.read();
        lock.destroy();
    }
}
JAVA
python3 -m venv venv
venv/bin/pip install -q 'filelock==4.3.1' 'portalocker==4.4.2' 'fasteners==0.20'
venv/bin/python - <<'PY'
import subprocess
from importlib.metadata import version

import fasteners
import filelock
import portalocker

print("kafka 4.3.1", *(f"{package} {version(package)}" for package in ("filelock", "portalocker", "fasteners")))
FOLDER_LOCK = ".lock"
KAFKA = ["java", "-cp", "jars/*", "Hold.java", FOLDER_LOCK]
WAYS = {
    "filelock": (lambda: filelock.FileLock(FOLDER_LOCK), lambda lock: lock.acquire(timeout=0)),
    "portalocker": (
        lambda: portalocker.Lock(FOLDER_LOCK, timeout=0, fail_when_locked=True),
        lambda lock: lock.acquire(),
    ),
    "fasteners": (lambda: fasteners.InterProcessLock(FOLDER_LOCK), lambda lock: lock.acquire(blocking=False)),
}


def granted(name):
    make, acquire = WAYS[name]
    lock = make()
    try:
        if not acquire(lock):
            return None
    except (filelock.Timeout, portalocker.LockException):
        return None
    return lock


def kafka():
    return subprocess.Popen(KAFKA, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


broker = kafka()
assert broker.stdout.readline() == "true\n"
beside_kafka = {}
for name in WAYS:
    lock = granted(name)
    beside_kafka[name] = lock is not None
    if lock:
        lock.release()
broker.communicate()

kafka_beside = {}
for name in WAYS:
    lock = granted(name)
    assert lock, "nobody else has it"
    kafka_beside[name] = kafka().communicate()[0] == "true\n"
    lock.release()

print("granted while Kafka holds the lock:", beside_kafka)
print("granted to Kafka while they hold it:", kafka_beside)
assert beside_kafka == kafka_beside == {"filelock": True, "portalocker": True, "fasteners": False}
PY
echo "as seen"
