# What nix/ uses of nixpkgs' lib.
let
  inherit (builtins) concatMap isList;
in
rec {
  inherit (builtins)
    attrNames
    concatMap
    concatStringsSep
    functionArgs
    head
    intersectAttrs
    listToAttrs
    ;
  callPackageWith =
    set: file: args:
    let
      function = if builtins.isFunction file then file else import file;
    in
    function (intersectAttrs (functionArgs function) set // args);
  concatMapStrings = f: list: concatStringsSep "" (map f list);
  concatMapStringsSep =
    between: f: list:
    concatStringsSep between (map f list);
  optional = condition: value: if condition then [ value ] else [ ];
  optionals = condition: list: if condition then list else [ ];
  optionalString = condition: text: if condition then text else "";
  toList = value: if isList value then value else [ value ];
  toLower =
    let
      upper = [ "A" "B" "C" "D" "E" "F" "G" "H" "I" "J" "K" "L" "M" "N" "O" "P" "Q" "R" "S" "T" "U" "V" "W" "X" "Y" "Z" ];
      lower = [ "a" "b" "c" "d" "e" "f" "g" "h" "i" "j" "k" "l" "m" "n" "o" "p" "q" "r" "s" "t" "u" "v" "w" "x" "y" "z" ];
    in
    builtins.replaceStrings upper lower;
  splitString = between: text: builtins.filter builtins.isString (builtins.split between text);
  assertMsg = condition: message: condition || builtins.throw message;
  genAttrs =
    names: f:
    listToAttrs (
      map (name: {
        inherit name;
        value = f name;
      }) names
    );
  importTOML = file: builtins.fromTOML (builtins.readFile file);
  makeOverridable = f: args: f args // { override = more: makeOverridable f (args // more); };
  licenses.mit.spdxId = "MIT";
  platforms.linux = [
    "aarch64-linux"
    "x86_64-linux"
  ];

  # A source with nothing in it but these paths; a file set is a list of paths here.
  fileset = {
    unions = list: list;
    toSource =
      { root, fileset }:
      let
        wanted = map toString fileset;
        within = path: directory: path == directory || builtins.substring 0 (builtins.stringLength directory + 1) path == "${directory}/";
        keep = path: builtins.any (file: within path file || within file path) wanted;
      in
      {
        outPath = builtins.path {
          name = "source";
          path = root;
          filter =
            path: type: keep path && !(builtins.elem (baseNameOf path) [ "__pycache__" ]) && builtins.match ".*\\.(so|pyc)" path == null;
        };
      };
  };
}
