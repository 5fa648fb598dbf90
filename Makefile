# One way in. Programs do the work; this file only names it.
#
#   make run                        builds everything, boots a node in QEMU, shows it becoming Ready; Ctrl-C ends it
#   make run TARGET=aarch64         the same on 64-bit Arm
#   make run MISSION=path/to.toml   another mission
#   make test                       the whole suite, machines included
#   make test ONLY=unit             steps whose name contains `unit`
#   make bench                      measures and writes out/bench.json; ONLY=boot for a part
#   make campaign NAME=service-kill COUNT=20   breaks things on purpose; SEED=… repeats one
#                                   others: bad-slot, bit-flip, boot-state, hang, power-cut, power-cut-aarch64,
#                                   update-cut, update-fail, update-link
#   make mutants                    changes the code that decides the boot, one thing at a time: a test has to fail
#   make build                      only builds the disk: out/<target>/<mission>/<node>.img
#   make clean-cache                deletes the cache; costs nothing but the next build's time

TARGET ?= x86_64
MISSION ?= mission.toml
ONLY ?=
NAME ?= service-kill
COUNT ?= 20
SEED ?=
# Everything that a clean clone can use again is outside the clone. Cargo tells files by their times, and programs have
# their clone's path in them: two clones must not share its folder.
export PERIGEE_CACHE ?= $(HOME)/.cache/perigee
clone := $(firstword $(shell printf %s "$(CURDIR)" | sha256sum | cut -c 1-12))
export CARGO_TARGET_DIR ?= $(PERIGEE_CACHE)/target-$(clone)

perigee := cargo run --quiet -p perigee --
tests := cargo run --quiet -p perigee-tests --

.PHONY: help run build test bench campaign mutants clean-cache setup
help:
	@sed -n 's/^#   //p' Makefile

run: setup
	@$(perigee) run --target $(TARGET) --mission $(MISSION)

build: setup
	@$(perigee) build --target $(TARGET) --mission $(MISSION)

test: setup
	@$(tests) test $(ONLY)

bench: setup
	@$(tests) bench $(ONLY)

campaign: setup
	@$(tests) campaign $(NAME) $(COUNT) $(SEED)

mutants: setup
	@$(tests) mutants $(ONLY)

clean-cache:
	rm -rf "$(PERIGEE_CACHE)"

setup:
	@image/setup.sh
