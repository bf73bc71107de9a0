"""What a person looks at: contact sheets of mixed images, previews of masks, grids."""
