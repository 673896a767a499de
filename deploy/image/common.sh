# Shared by the stages' scripts, which source it.
# Every file of a layer gets this time, the oldest that a zip can hold: a layer then changes with its content only, and
# an image of another commit shares all layers that are equal.
export TZ=UTC LC_ALL=C PYTHONHASHSEED=0
layer_time='1980-01-01 00:00:00'
site=usr/local/lib/python3.11/dist-packages

packages() { # lines of a list, without comments
  sed -e 's/#.*//' -e '/^ *$/d' "$1"
}

compile() { # $1: root of the layer, $2: folder below it. One process in one order: byte code that is the same each time.
  # unchecked-hash: no time stamp in it, and no look at the source when it is loaded.
  /usr/bin/python3 -m compileall -q -j 1 --invalidation-mode unchecked-hash -s "$1" -p / "$1/$2"
}

finish() { # give all files of a layer the layer's time
  find "$1" -exec touch --no-dereference --date "$layer_time" {} +
}
