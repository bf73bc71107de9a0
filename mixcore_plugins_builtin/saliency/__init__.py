"""The builtin saliencies: of the image, of the trained network, of a teacher."""
