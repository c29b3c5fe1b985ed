# python3Packages.fastlayers, the library; fastlayers, the program, with the image functions as attributes.
final: prev: {
  pythonPackagesExtensions = prev.pythonPackagesExtensions ++ [
    (python: _: { fastlayers = python.callPackage ./package.nix { }; })
  ];

  fastlayers =
    let
      program = final.python3Packages.toPythonApplication final.python3Packages.fastlayers;
      images = final.callPackage ./images.nix { fastlayers = program; };
    in
    program.overrideAttrs (old: {
      passthru = (old.passthru or { }) // {
        inherit (images) buildImageLayout buildLayeredImage streamLayeredImage;
        tests = (old.passthru.tests or { }) // final.callPackages ./tests.nix { };
      };
    });
}
